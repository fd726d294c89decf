// Which reads of a plan become one where bytes go straight into place.
#include "check.hpp"
#include "engine/join_reads.hpp"
#include "io/source.hpp"

using namespace streamload;

namespace {

constexpr std::size_t kRead = 64 << 10;
constexpr std::size_t kMost = 256 << 10;
constexpr std::uintptr_t kPlace = std::uintptr_t{1} << 32;

// Reads of one copy each; where each is, and where it goes.
struct Wanted {
  std::uint32_t source = 0;
  std::uint32_t group = 0;
  std::uint64_t offset = 0;
  std::uintptr_t address = 0;
  std::size_t nbytes = kRead;
};

Plan plan_of(const std::vector<Wanted>& wanted) {
  Plan plan;
  for (const Wanted& one : wanted) {
    plan.reads.push_back({one.source, one.group, one.offset, one.nbytes, plan.copies.size(), plan.copies.size() + 1});
    plan.copies.push_back({0, one.address, one.nbytes});
    plan.nbytes += one.nbytes;
  }
  return plan;
}

bool always(std::uint32_t /*source*/) { return true; }

// The lengths that are left, each read with the one copy that fills its place.
std::vector<std::size_t> joined(Plan plan, const std::function<bool(std::uint32_t)>& may_join = always) {
  std::size_t before = 0;
  for (const ReadStep& read : plan.reads) before += read.nbytes;
  join_reads(plan, kMost, may_join);
  std::vector<std::size_t> lengths;
  std::size_t after = 0;
  for (const ReadStep& read : plan.reads) {
    CHECK_EQ(read.last_copy, read.first_copy + 1);
    CHECK_EQ(plan.copies[read.first_copy].row_bytes, read.nbytes);
    CHECK_EQ(read.joined, read.nbytes > kRead);
    lengths.push_back(read.nbytes);
    after += read.nbytes;
  }
  CHECK_EQ(before, after);
  CHECK_EQ(plan.copies.size(), plan.reads.size());
  return lengths;
}

using Lengths = std::vector<std::size_t>;

}  // namespace

TEST(neighbours_in_file_and_memory_are_one_read_up_to_the_most) {
  std::vector<Wanted> wanted;
  for (std::size_t i = 0; i < 6; ++i) wanted.push_back({0, 0, i * kRead, kPlace + i * kRead});
  CHECK(joined(plan_of(wanted)) == (Lengths{kMost, 2 * kRead}));
  wanted.resize(3);
  wanted.back().nbytes = 100;
  CHECK(joined(plan_of(wanted)) == (Lengths{2 * kRead + 100}));
}

TEST(what_does_not_meet_stays_apart) {
  const Wanted first{0, 0, 0, kPlace};
  CHECK(joined(plan_of({first, {0, 0, kRead, kPlace + 2 * kRead}})).size() == 2);                    // a gap in memory
  CHECK(joined(plan_of({first, {0, 0, 2 * kRead, kPlace + kRead}})).size() == 2);                    // in the file
  CHECK(joined(plan_of({first, {1, 0, kRead, kPlace + kRead}})).size() == 2);                        // of another file
  CHECK(joined(plan_of({first, {0, 1, kRead, kPlace + kRead}})).size() == 2);                        // of another group
  CHECK(joined(plan_of({{0, 0, 0, kPlace + 64}, {0, 0, kRead, kPlace + 64 + kRead}})).size() == 2);  // off the grid
  const Plan both = plan_of({first, {0, 0, kRead, kPlace + kRead}});
  CHECK(joined(both).size() == 1);
  CHECK(joined(both, [](std::uint32_t) { return false; }).size() == 2);
}

TEST(reads_of_several_copies_or_rows_or_with_sums_are_left_as_they_are) {
  Plan plan = plan_of({{0, 0, 0, kPlace}, {0, 0, kRead, kPlace + kRead}, {0, 0, 2 * kRead, kPlace + 2 * kRead}});
  plan.reads.push_back({0, 0, 3 * kRead, kRead, 3, 5});
  plan.copies.push_back({0, kPlace + 3 * kRead, 1000});
  plan.copies.push_back({1000, kPlace + 3 * kRead + 1000, kRead - 1000});
  plan.reads.push_back({0, 0, 4 * kRead, kRead, 5, 6});
  plan.copies.push_back({0, kPlace + 4 * kRead, 16, kRead / 16, 16, 16});
  Plan changed = plan;
  join_reads(changed, kMost, always);
  REQUIRE(changed.reads.size() == 3);
  CHECK_EQ(changed.reads[0].nbytes, 3 * kRead);
  CHECK_EQ(changed.reads[1].first_copy, 1U);
  CHECK_EQ(changed.reads[1].last_copy, 3U);
  CHECK_EQ(changed.copies[2].offset, 1000U);
  CHECK_EQ(changed.copies[3].rows, kRead / 16);
  plan.sums.push_back({0, 0, kRead});
  changed = plan;
  join_reads(changed, kMost, always);
  CHECK_EQ(changed.reads.size(), 5U);
}

TEST(every_thread_is_left_several_reads) {
  CHECK_EQ(longest_in_place(std::uint64_t{1} << 30, 2), std::size_t{16} << 20);
  CHECK_EQ(longest_in_place(std::uint64_t{1} << 30, 16), std::size_t{8} << 20);
  CHECK_EQ(longest_in_place(1000, 0), 125U);
}
