#include <vector>

#include "check.hpp"
#include "engine/plan.hpp"

using namespace streamload;

namespace {

using Numbers = std::vector<std::uint64_t>;

constexpr std::size_t kMost = 100;  // chunk_bytes

// Two sources, two groups; the copies are one plain range and one of 3 rows, unless a test gives its own.
bool parses(const Numbers& reads, const Numbers& copies, const Numbers& sums = {}, const Numbers& expected = {}) {
  Plan plan;
  return parse_plan({reads, copies, sums, expected, 2}, 2, kMost, plan).ok();
}

const Numbers kCopies = {0, 0x1000, 10, 1, 0, 0, 10, 0x2000, 5, 1, 0, 0};

}  // namespace

TEST(a_plan_is_taken_as_it_is_written) {
  const Numbers reads = {1, 7, 60, 0, 0, 0, 0, 40, 1, 2};
  const Numbers copies = {0, 0x1000, 10, 1, 0, 0, 10, 0x2000, 5, 3, 20, 8, 0, 0x9000, 40, 1, 0, 0};
  const Numbers sums = {0, 4, 6, 0, 0, 0, 3, 1, 1, 0, 40, 2};
  Plan plan;
  const Numbers expected = {kNotKnown, 5, kNotKnown};
  CHECK_EQ(parse_plan({reads, copies, sums, expected, 2}, 2, kMost, plan).text, "");
  CHECK_EQ(plan.nbytes, 65U);
  CHECK_EQ(plan.copies[1].rows, 3U);
  CHECK_EQ(plan.copies[1].nbytes(), 15U);
  CHECK_EQ(plan.reads[0].last_copy, 2U);
  CHECK_EQ(plan.reads[0].last_sum - plan.reads[0].first_sum, 2U);
  CHECK(!plan.keys[0].expected);
  CHECK_EQ(*plan.keys[1].expected, 5U);
  CHECK_EQ(plan.keys[2].group, 1U);
}

TEST(reads_that_break_the_contract_are_refused) {
  CHECK(parses({0, 0, 15, 0, 0}, kCopies));
  CHECK(!parses({2, 0, 15, 0, 0}, kCopies));                  // no such source
  CHECK(!parses({0, 0, 101, 0, 0}, kCopies));                 // larger than a chunk
  CHECK(!parses({0, 0, 0, 0, 0}, kCopies));                   // empty
  CHECK(!parses({0, 0, 15, 2, 0}, kCopies));                  // no such group
  CHECK(!parses({0, 0, 10, 1, 0, 0, 10, 5, 0, 1}, kCopies));  // groups out of order
  CHECK(!parses({0, 0, 14, 0, 0}, kCopies));                  // a copy leaves the read
  CHECK(!parses({0, 0, 15, 0, 1}, kCopies));                  // a copy left out
  CHECK(!parses({0, 0, 15, 0}, kCopies));                     // ends inside a step
  CHECK(!parses({0, 0, 10, 0, 0, 0, 10, 5, 0, 3}, kCopies));  // copies out of range
  CHECK(!parses({}, kCopies));                                // copies without reads
  CHECK(!parses({0, 0, 15, 0, 0, 0, 20, 9, 1, 2}, kCopies));  // a read for nothing
}

TEST(rows_that_leave_their_read_or_the_address_space_are_refused) {
  constexpr std::uint64_t kAll = ~std::uint64_t{0};
  const auto rows = [](std::uint64_t offset, std::uint64_t address, std::uint64_t row_bytes, std::uint64_t count,
                       std::uint64_t source_pitch, std::uint64_t target_pitch) {
    return parses({0, 0, 60, 0, 0}, {offset, address, row_bytes, count, source_pitch, target_pitch});
  };
  CHECK(rows(0, 0x1000, 10, 3, 25, 10));
  CHECK(rows(0, 0x1000, 20, 3, 20, 64));
  CHECK(!rows(1, 0x1000, 10, 3, 25, 10));     // the last row ends outside
  CHECK(!rows(0, 0x1000, 10, 0, 25, 10));     // no rows
  CHECK(!rows(0, 0x1000, 0, 3, 25, 10));      // of nothing
  CHECK(!rows(0, 0x1000, 10, 3, 9, 10));      // rows overlap in the read
  CHECK(!rows(0, 0x1000, 10, 3, 25, 9));      // and at the destination
  CHECK(!rows(0, 0x1000, 10, kAll, 25, 10));  // products that wrap
  CHECK(!rows(0, 0x1000, 10, 2, kAll - 5, 10));
  CHECK(!rows(0, kAll - 64, 10, 3, 25, 1ULL << 40U));
  CHECK(!rows(kAll, 0x1000, 10, 3, 25, 10));
}

TEST(sums_that_break_the_contract_are_refused) {
  const Numbers reads = {0, 0, 15, 0, 0, 0, 20, 9, 1, 2};
  CHECK(parses(reads, kCopies, {0, 0, 15, 0, 1, 0, 9, 1}, {kNotKnown, 7}));
  CHECK(!parses(reads, kCopies, {2, 0, 1, 0}, {kNotKnown}));                  // no such read
  CHECK(!parses(reads, kCopies, {0, 0, 16, 0, 1, 0, 9, 1}, {kNotKnown, 7}));  // outside its read
  CHECK(!parses(reads, kCopies, {0, 16, 0, 0, 1, 0, 9, 1}, {kNotKnown, 7}));
  CHECK(!parses(reads, kCopies, {1, 0, 9, 2}, {kNotKnown, 7}));                         // no such key
  CHECK(!parses(reads, kCopies, {1, 0, 9, 1, 0, 0, 15, 0}, {kNotKnown, 7}));            // keys out of order
  CHECK(!parses(reads, kCopies, {0, 0, 15, 0, 1, 0, 9, 0}, {kNotKnown}));               // a key of two groups
  CHECK(!parses(reads, kCopies, {0, 0, 15, 0, 1, 0, 9, 1}, {kNotKnown, 1ULL << 32U}));  // no 32-bit sum
  Plan plan;
  const Numbers one = {kNotKnown};
  CHECK(!parse_plan({{}, {}, {}, one, 0}, 0, kMost, plan).ok());  // a key and no groups
  CHECK(!parses(reads, kCopies, {0, 0, 15}, {kNotKnown}));        // ends inside a step
}
