#include "format/header_scan.hpp"

#include <algorithm>
#include <tuple>
#include <unordered_set>

namespace streamload {
namespace {

constexpr std::string_view kMetadata = "__metadata__";
constexpr std::size_t kMostDigits = 18;   // below 2^63 whatever they are
constexpr std::size_t kTensorBytes = 64;  // of JSON at least, for each tensor: to reserve by

class Scanner {
 public:
  Scanner(std::string_view json, std::span<const DtypeBits> dtypes, ScannedHeader& header)
      : at_(json.data()), end_(json.data() + json.size()), dtypes_(dtypes), header_(header) {
    header_.tensors.reserve(json.size() / kTensorBytes);
    header_.lengths.reserve(2 * (json.size() / kTensorBytes));
  }

  bool scan() {
    return members([this](std::string_view name) { return name == kMetadata ? metadata() : tensor(name); }) && ended();
  }

 private:
  bool ended() {
    skip_space();
    return at_ == end_;
  }

  bool metadata() {
    if (has_metadata_) return false;
    has_metadata_ = true;
    return members([this](std::string_view key) {
      std::string_view text;
      if (!string(text)) return false;
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
    const bool read = members([&](std::string_view field) {
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
    if (!string(name)) return false;
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
    if (!token('[')) return false;
    if (token(']')) return true;
    do {
      std::uint64_t length = 0;
      if (!number(length)) return false;
      header_.lengths.push_back(length);
      ++tensor.dimensions;
    } while (token(','));
    return token(']');
  }

  bool offsets(ScannedTensor& tensor) {
    return token('[') && number(tensor.start) && token(',') && number(tensor.end) && token(']');
  }

  [[nodiscard]] bool takes_its_bytes(const ScannedTensor& tensor) const {
    std::uint64_t bits = 1;
    for (std::size_t i = 0; i < tensor.dimensions; ++i) {
      if (__builtin_mul_overflow(bits, header_.lengths[tensor.shape_at + i], &bits)) return false;
    }
    if (__builtin_mul_overflow(bits, dtypes_[tensor.dtype].bits, &bits)) return false;
    return tensor.start <= tensor.end && (tensor.end - tensor.start) * 8 == bits;
  }

  // An object; `member` reads the value of each key.
  template <class Member>
  bool members(Member member) {
    if (!token('{')) return false;
    if (token('}')) return true;
    do {
      std::string_view key;
      skip_space();
      if (!string(key) || !token(':')) return false;
      skip_space();
      if (!member(key)) return false;
    } while (token(','));
    return token('}');
  }

  bool string(std::string_view& text) {
    if (!token('"')) return false;
    const char* first = at_;
    while (at_ < end_ && *at_ >= ' ' && *at_ < '\x7f' && *at_ != '"' && *at_ != '\\') ++at_;
    text = {first, static_cast<std::size_t>(at_ - first)};
    if (at_ == end_ || *at_ != '"') return false;
    ++at_;
    return true;
  }

  bool number(std::uint64_t& value) {
    skip_space();
    const char* first = at_;
    value = 0;
    while (at_ < end_ && *at_ >= '0' && *at_ <= '9' && static_cast<std::size_t>(at_ - first) <= kMostDigits) {
      value = 10 * value + static_cast<std::uint64_t>(*at_++ - '0');
    }
    const auto digits = static_cast<std::size_t>(at_ - first);
    return digits > 0 && digits <= kMostDigits && (digits == 1 || *first != '0');
  }

  bool token(char wanted) {
    skip_space();
    if (at_ == end_ || *at_ != wanted) return false;
    ++at_;
    return true;
  }

  void skip_space() {
    while (at_ < end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
  }

  const char* at_;
  const char* end_;
  std::span<const DtypeBits> dtypes_;
  ScannedHeader& header_;
  std::size_t last_dtype_ = 0;
  bool has_metadata_ = false;
};

template <class Items, class Key>
bool all_different(const Items& items, Key key) {
  std::unordered_set<std::string_view> seen;
  seen.reserve(items.size());
  return std::all_of(items.begin(), items.end(), [&](const auto& item) { return seen.insert(key(item)).second; });
}

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
  if (!all_different(header.tensors, [](const ScannedTensor& tensor) { return tensor.name; })) return false;
  if (!all_different(header.metadata, [](const auto& entry) { return entry.first; })) return false;
  // Those of no bytes share a place; they stay in the order of the text.
  const auto in_order = [](const ScannedTensor& a, const ScannedTensor& b) {
    return std::tuple(a.start, a.end, a.name.data()) < std::tuple(b.start, b.end, b.name.data());
  };
  std::sort(header.tensors.begin(), header.tensors.end(), in_order);
  return cover(header.tensors, data_nbytes);
}

}  // namespace streamload
