// The index of a sharded checkpoint, read the fast way: as nearly everybody writes it.
#pragma once

#include <cstdint>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace streamload {

// Everything in it points into the text, and names may come twice.
struct ScannedIndex {
  std::vector<std::pair<std::string_view, std::string_view>> weight_map;  // a tensor's name, its shard's
  std::vector<std::pair<std::string_view, std::variant<std::string_view, std::uint64_t>>> metadata;
};

// Reads an index whose JSON is plain: printable ASCII without escapes, `weight_map` from names to names, perhaps
// `metadata` of texts and whole numbers of at most 18 digits, and no other field. False: it is something else, or
// wrong, which this does not tell apart and has no words for; `index` is then of no meaning.
[[nodiscard]] bool scan_index(std::string_view json, ScannedIndex& index);

}  // namespace streamload
