// What the fast reading of an index takes, and what it leaves to the parser. That both agree is the property tests'
// job.
#include <string>

#include "check.hpp"
#include "format/index_scan.hpp"

using namespace streamload;

namespace {

constexpr std::string_view kTwo =
    R"( {"metadata" : {"total_size": 8, "made_by":"us"},
  "weight_map":{"a.b":"m-1.safetensors" , "c":"m-2.safetensors"}} )";

// In a block of its own length, so that AddressSanitizer sees a look behind it.
bool scans(std::string_view json) {
  const std::vector<char> exact(json.begin(), json.end());
  ScannedIndex index;
  return scan_index({exact.data(), exact.size()}, index);
}

}  // namespace

TEST(names_come_in_the_order_of_the_text) {
  ScannedIndex index;
  REQUIRE(scan_index(kTwo, index));
  REQUIRE(index.weight_map.size() == 2);
  CHECK(index.weight_map[0].first == "a.b");
  CHECK(index.weight_map[0].second == "m-1.safetensors");
  CHECK(index.weight_map[1].first == "c");
  CHECK(index.weight_map[1].second == "m-2.safetensors");
  REQUIRE(index.metadata.size() == 2);
  CHECK(index.metadata[0].first == "total_size");
  CHECK(std::get<std::uint64_t>(index.metadata[0].second) == 8);
  CHECK(std::get<std::string_view>(index.metadata[1].second) == "us");
}

TEST(an_index_cut_anywhere_is_left_alone) {
  const std::string_view whole = kTwo.substr(0, kTwo.rfind('}') + 1);
  for (std::size_t length = 0; length < whole.size(); ++length) CHECK(!scans(whole.substr(0, length)));
  CHECK(scans(whole));
}

TEST(what_is_not_plain_is_left_alone) {
  CHECK(scans(R"({"weight_map":{}})"));
  CHECK(scans(R"({"weight_map":{"a":"x"},"metadata":{}})"));
  for (const std::string_view json : {
           R"({})",
           R"([])",
           R"({"metadata":{}})",
           R"({"weight_map":{},"weight_map":{}})",
           R"({"weight_map":{},"metadata":{},"metadata":{}})",
           R"({"weight_map":{},"more":1})",
           R"({"weight_map":{},"metadata":null})",
           R"({"weight_map":{},"metadata":{"total_size":8.0}})",
           R"({"weight_map":{},"metadata":{"total_size":-0}})",
           R"({"weight_map":{},"metadata":{"total_size":1234567890123456789}})",
           R"({"weight_map":{},"metadata":{"deep":{}}})",
           R"({"weight_map":[]})",
           R"({"weight_map":{"a":1}})",
           R"({"weight_map":{"a":"x",}})",
           R"({"weight_map":{"a" "x"}})",
           R"({"weight_map":{"a\n":"x"}})",
           R"({"weight_map":{"a":"\u0078"}})",
           R"({"weight_map":{"a":"x"}}x)",
       }) {
    CHECK(!scans(json));
  }
  CHECK(!scans("{\"weight_map\":{\"\xc3\xa4\":\"x\"}}"));
  CHECK(!scans(std::string_view("{\"weight_map\":{\"a\0\":\"x\"}}", 25)));
}
