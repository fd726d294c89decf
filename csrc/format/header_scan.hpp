// The header of a safetensors file, read the fast way: as nearly everybody writes it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

namespace streamload {

struct DtypeBits {
  std::string_view name;
  std::uint64_t bits;  // of one element
};

struct ScannedTensor {
  std::string_view name;
  std::size_t dtype;       // index into the dtypes that were given
  std::size_t shape_at;    // index into `lengths`
  std::size_t dimensions;  // how many of them
  std::uint64_t start;     // in the data section
  std::uint64_t end;
};

// Everything in it points into the text, and names may come twice.
struct ScannedHeader {
  std::vector<ScannedTensor> tensors;  // in the order of their bytes: no gap, no overlap
  std::vector<std::uint64_t> lengths;
  std::vector<std::pair<std::string_view, std::string_view>> metadata;
};

// Reads and checks a header whose JSON is plain: printable ASCII without escapes, tensors of the three fields and no
// other, whole numbers of at most 18 digits. False: it is something else, or wrong, which this does not tell apart and
// has no words for; `header` is then of no meaning.
[[nodiscard]] bool scan_header(std::string_view json, std::uint64_t data_nbytes, std::span<const DtypeBits> dtypes,
                               ScannedHeader& header);

}  // namespace streamload
