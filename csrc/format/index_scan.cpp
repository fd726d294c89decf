#include "format/index_scan.hpp"

#include "format/plain_json.hpp"

namespace streamload {
namespace {

constexpr std::size_t kEntryBytes = 64;  // of JSON, about, for each tensor: to reserve by

class Scanner {
 public:
  Scanner(std::string_view json, ScannedIndex& index) : json_(json), index_(index) {
    index_.weight_map.reserve(json.size() / kEntryBytes);
  }

  bool scan() {
    const bool read = json_.members([this](std::string_view field) {
      if (field == "weight_map") return once(has_weight_map_) && weight_map();
      return field == "metadata" && once(has_metadata_) && metadata();
    });
    return read && has_weight_map_ && json_.ended();
  }

 private:
  static bool once(bool& seen) { return !std::exchange(seen, true); }

  bool weight_map() {
    return json_.members([this](std::string_view name) {
      std::string_view shard;
      if (!json_.string(shard)) return false;
      index_.weight_map.emplace_back(name, shard);
      return true;
    });
  }

  bool metadata() {
    return json_.members([this](std::string_view key) {
      std::string_view text;
      std::uint64_t number = 0;
      const bool is_text = json_.next_is('"');
      if (!(is_text ? json_.string(text) : json_.number(number))) return false;
      if (is_text) {
        index_.metadata.emplace_back(key, text);
      } else {
        index_.metadata.emplace_back(key, number);
      }
      return true;
    });
  }

  PlainJson json_;
  ScannedIndex& index_;
  bool has_weight_map_ = false;
  bool has_metadata_ = false;
};

}  // namespace

bool scan_index(std::string_view json, ScannedIndex& index) { return Scanner(json, index).scan(); }

}  // namespace streamload
