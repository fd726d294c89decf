// What the fast reading of headers takes, and what it leaves to the parser. That both agree is the property tests' job.
#include <array>
#include <string>

#include "check.hpp"
#include "format/header_scan.hpp"

using namespace streamload;

namespace {

constexpr std::array kDtypes{DtypeBits{"F32", 32}, DtypeBits{"F4", 4}, DtypeBits{"U8", 8}};
constexpr std::string_view kTwo =
    R"( {"b":{"shape":[2],"dtype":"U8","data_offsets":[8,10]} , "a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},)"
    R"("__metadata__":{"format":"pt"}}  )";

// In a block of its own length, so that AddressSanitizer sees a look behind it.
bool scans(std::string_view json, std::uint64_t data_nbytes, ScannedHeader& header) {
  const std::vector<char> exact(json.begin(), json.end());
  header = {};
  const bool read = scan_header({exact.data(), exact.size()}, data_nbytes, kDtypes, header);
  for (const ScannedTensor& tensor : header.tensors) {
    CHECK(tensor.name.data() >= exact.data());
    CHECK(tensor.shape_at + tensor.dimensions <= header.lengths.size());
  }
  for (ScannedTensor& tensor : header.tensors) tensor.name = {};
  return read;
}

bool scans(std::string_view json, std::uint64_t data_nbytes) {
  ScannedHeader header;
  return scans(json, data_nbytes, header);
}

}  // namespace

TEST(tensors_come_in_the_order_of_their_bytes) {
  ScannedHeader header;
  REQUIRE(scan_header(kTwo, 10, kDtypes, header));
  REQUIRE(header.tensors.size() == 2);
  CHECK(header.tensors[0].name == "a");
  CHECK_EQ(header.tensors[0].dimensions, 2U);
  CHECK_EQ(header.lengths[header.tensors[0].shape_at], 2U);
  CHECK(header.tensors[1].name == "b");
  CHECK_EQ(header.tensors[1].dtype, 2U);
  CHECK_EQ(header.tensors[1].start, 8U);
  CHECK_EQ(header.tensors[1].end, 10U);
  REQUIRE(header.metadata.size() == 1);
  CHECK(header.metadata[0].first == "format");
  CHECK(header.metadata[0].second == "pt");
}

TEST(a_header_cut_anywhere_is_left_alone) {
  const std::string_view whole = kTwo.substr(0, kTwo.rfind('}') + 1);
  for (std::size_t length = 0; length < whole.size(); ++length) CHECK(!scans(whole.substr(0, length), 10));
  CHECK(scans(whole, 10));
}

TEST(data_of_another_length_is_left_alone) {
  CHECK(!scans(kTwo, 9));
  CHECK(!scans(kTwo, 11));
  CHECK(scans("{}", 0));
  CHECK(!scans("{}", 1));
}

TEST(what_is_not_plain_is_left_alone) {
  const auto one = [](std::string_view fields) { return std::string(R"({"a":{)") + std::string(fields) + "}}"; };
  const std::string plain = R"("dtype":"U8","shape":[1],"data_offsets":[0,1])";
  CHECK(scans(one(plain), 1));
  for (const std::string_view fields : {
           R"("dtype":"U8","shape":[1])",
           R"("dtype":"U8","shape":[1],"data_offsets":[0,1],"more":1)",
           R"("dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1])",
           R"("dtype":"X8","shape":[1],"data_offsets":[0,1])",
           R"("dtype":"U8","shape":[1.0],"data_offsets":[0,1])",
           R"("dtype":"U8","shape":[01],"data_offsets":[0,1])",
           R"("dtype":"U8","shape":[1,],"data_offsets":[0,1])",
           R"("dtype":"U8","shape":[-1],"data_offsets":[0,1])",
           R"("dtype":"U8","shape":[1],"data_offsets":[0,2])",
           R"("dtype":"U8","shape":[1],"data_offsets":[1,0])",
           R"("dtype":"U8","shape":[1],"data_offsets":[0,1,2])",
           R"("dtype":"U8","shape":[1],"data_offsets":[0,0000000000000000001])",
           R"("dtype":"U8","shape":[1234567890123456789],"data_offsets":[0,1])",
           R"("dtype":"F4","shape":[1],"data_offsets":[0,1])",
           R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])",
       }) {
    CHECK(!scans(one(fields), 1));
  }
  CHECK(!scans(R"({"a\n":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1));
  CHECK(!scans("{\"\xc3\xa4\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1));
  CHECK(!scans(one(plain) + "x", 1));
  CHECK(!scans("[]", 0));
}

TEST(a_name_that_comes_twice_is_handed_out_twice) {
  const std::string empty = R"("a":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  ScannedHeader header;
  CHECK(scans("{" + empty + "," + empty + "}", 0, header));
  CHECK_EQ(header.tensors.size(), 2U);
  CHECK(scans(R"({"__metadata__":{"a":"","a":""}})", 0, header));
  CHECK_EQ(header.metadata.size(), 2U);
  CHECK(!scans(R"({"__metadata__":{},"__metadata__":{}})", 0));
}

TEST(every_byte_of_a_name_is_looked_at) {
  // Eight bytes are looked at together: each place among them, and each value.
  for (std::size_t at = 0; at < 20; ++at) {
    for (int byte = 0; byte < 256; ++byte) {
      std::string name(20, 'x');
      name[at] = static_cast<char>(byte);
      const bool plain = byte >= ' ' && byte < 0x7f && byte != '"' && byte != '\\';
      CHECK_EQ(scans(R"({")" + name + R"(":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})", 1), plain);
    }
  }
}

TEST(holes_and_overlaps_are_left_alone) {
  const auto two = [](std::string_view second) {
    return std::string(
               R"({"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":)") +
           std::string(second) + "}}";
  };
  CHECK(scans(two("[2,4]"), 4));
  CHECK(!scans(two("[3,5]"), 5));
  CHECK(!scans(two("[1,3]"), 3));
}
