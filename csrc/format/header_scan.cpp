#include "format/header_scan.hpp"

#include <algorithm>
#include <tuple>

#include "format/plain_json.hpp"

namespace streamload {
namespace {

constexpr std::string_view kMetadata = "__metadata__";
constexpr std::size_t kTensorBytes = 64;  // of JSON at least, for each tensor: to reserve by

class Scanner {
 public:
  Scanner(std::string_view json, std::span<const DtypeBits> dtypes, ScannedHeader& header)
      : json_(json), dtypes_(dtypes), header_(header) {
    header_.tensors.reserve(json.size() / kTensorBytes);
    header_.lengths.reserve(2 * (json.size() / kTensorBytes));
  }

  bool scan() {
    const auto entry = [this](std::string_view name) { return name == kMetadata ? metadata() : tensor(name); };
    return json_.members(entry) && json_.ended();
  }

 private:
  bool metadata() {
    if (has_metadata_) return false;
    has_metadata_ = true;
    return json_.members([this](std::string_view key) {
      std::string_view text;
      if (!json_.string(text)) return false;
      header_.metadata.emplace_back(key, text);
      return true;
    });
  }

  bool tensor(std::string_view name) {
    ScannedTensor found{name, 0, header_.lengths.size(), 0, 0, 0};
    unsigned seen = 0;
    const auto once = [&seen](unsigned field) {
      const bool first = (seen & field) == 0;
      seen |= field;
      return first;
    };
    const bool read = json_.members([&](std::string_view field) {
      if (field == "dtype") return once(1) && dtype(found.dtype);
      if (field == "shape") return once(2) && shape(found);
      return field == "data_offsets" && once(4) && offsets(found);
    });
    if (!read || seen != 7 || !takes_its_bytes(found)) return false;
    header_.tensors.push_back(found);
    return true;
  }

  bool dtype(std::size_t& index) {
    std::string_view name;
    if (!json_.string(name)) return false;
    if (last_dtype_ < dtypes_.size() && dtypes_[last_dtype_].name == name) {
      index = last_dtype_;
      return true;
    }
    const auto found =
        std::find_if(dtypes_.begin(), dtypes_.end(), [name](const DtypeBits& d) { return d.name == name; });
    index = last_dtype_ = static_cast<std::size_t>(found - dtypes_.begin());
    return found != dtypes_.end();
  }

  bool shape(ScannedTensor& tensor) {
    if (!json_.token('[')) return false;
    if (json_.token(']')) return true;
    do {
      std::uint64_t length = 0;
      if (!json_.number(length)) return false;
      header_.lengths.push_back(length);
      ++tensor.dimensions;
    } while (json_.token(','));
    return json_.token(']');
  }

  bool offsets(ScannedTensor& tensor) {
    return json_.token('[') && json_.number(tensor.start) && json_.token(',') && json_.number(tensor.end) &&
           json_.token(']');
  }

  [[nodiscard]] bool takes_its_bytes(const ScannedTensor& tensor) const {
    std::uint64_t bits = 1;
    for (std::size_t i = 0; i < tensor.dimensions; ++i) {
      if (__builtin_mul_overflow(bits, header_.lengths[tensor.shape_at + i], &bits)) return false;
    }
    if (__builtin_mul_overflow(bits, dtypes_[tensor.dtype].bits, &bits)) return false;
    return tensor.start <= tensor.end && (tensor.end - tensor.start) * 8 == bits;
  }

  PlainJson json_;
  std::span<const DtypeBits> dtypes_;
  ScannedHeader& header_;
  std::size_t last_dtype_ = 0;
  bool has_metadata_ = false;
};

bool cover(std::span<const ScannedTensor> tensors, std::uint64_t data_nbytes) {
  std::uint64_t expected = 0;
  for (const ScannedTensor& tensor : tensors) {
    if (tensor.start != expected) return false;
    expected = tensor.end;
  }
  return expected == data_nbytes;
}

}  // namespace

bool scan_header(std::string_view json, std::uint64_t data_nbytes, std::span<const DtypeBits> dtypes,
                 ScannedHeader& header) {
  if (!Scanner(json, dtypes, header).scan()) return false;
  // Those of no bytes share a place; they stay in the order of the text.
  const auto in_order = [](const ScannedTensor& a, const ScannedTensor& b) {
    return std::tuple(a.start, a.end, a.name.data()) < std::tuple(b.start, b.end, b.name.data());
  };
  if (!std::is_sorted(header.tensors.begin(), header.tensors.end(), in_order)) {
    std::sort(header.tensors.begin(), header.tensors.end(), in_order);
  }
  return cover(header.tensors, data_nbytes);
}

}  // namespace streamload
