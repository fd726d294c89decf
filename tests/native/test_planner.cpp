// From copies to reads: held against a map of every byte, and at the ends of 64 bits.
#include <map>
#include <new>
#include <random>
#include <tuple>
#include <vector>

#include "check.hpp"
#include "engine/plan.hpp"
#include "plan/plain_runs.hpp"
#include "plan/planner.hpp"
#include "plan/row_runs.hpp"

using namespace streamload;

namespace {

constexpr std::uint64_t kMost = ~std::uint64_t{0};
using Groups = std::vector<std::vector<WantedCopy>>;
using Numbers = std::vector<std::uint64_t>;

Status plan(const Groups& groups, std::uint64_t chunk_bytes, PlannedLoad& out, std::uint64_t apart_bytes = kMost) {
  std::vector<WantedCopy> copies;
  std::vector<std::size_t> ends;
  for (const auto& group : groups) {
    for (const WantedCopy& copy : group) CHECK(find_fault(copy) == CopyFault::kNone);
    copies.insert(copies.end(), group.begin(), group.end());
    ends.push_back(copies.size());
  }
  return plan_load({copies, ends, chunk_bytes, apart_bytes}, out);
}

PlannedLoad planned(const Groups& groups, std::uint64_t chunk_bytes, std::uint64_t apart_bytes = kMost) {
  PlannedLoad out;
  CHECK_EQ(plan(groups, chunk_bytes, out, apart_bytes).text, "");
  return out;
}

// Group, shard, offset in the file and address of every byte, and how often.
using Bytes = std::map<std::tuple<std::uint64_t, std::uint64_t, std::uint64_t, std::uint64_t>, int>;

Bytes wanted(const Groups& groups) {
  Bytes bytes;
  for (std::size_t group = 0; group < groups.size(); ++group) {
    for (const WantedCopy& copy : groups[group]) {
      for (std::uint64_t row = 0; row < copy.rows; ++row) {
        for (std::uint64_t at = 0; at < copy.row_bytes(); ++at) {
          ++bytes[{group, copy.shard, copy.start + row * copy.file_pitch + at, copy.address + row * copy.pitch + at}];
        }
      }
    }
  }
  return bytes;
}

// What a plan does, once the engine takes it.
Bytes done(const PlannedLoad& load, std::size_t group_count, std::uint64_t chunk_bytes) {
  Bytes bytes;
  Plan plan;
  const auto groups = static_cast<std::uint32_t>(group_count);
  CHECK_EQ(parse_plan({load.flat.reads, load.flat.copies, {}, {}, groups}, 3, chunk_bytes, plan).text, "");
  CHECK_EQ(plan.nbytes, load.nbytes);
  for (const ReadStep& read : plan.reads) {
    CHECK(read.last_copy - read.first_copy <= kMaxCopies);
    for (std::size_t i = read.first_copy; i < read.last_copy; ++i) {
      const CopyStep& copy = plan.copies[i];
      for (std::size_t row = 0; row < copy.rows; ++row) {
        for (std::size_t at = 0; at < copy.row_bytes; ++at) {
          const std::uint64_t inside = copy.offset + row * copy.source_pitch + at;
          ++bytes[{read.group, read.source, read.offset + inside, copy.address + row * copy.target_pitch + at}];
        }
      }
    }
  }
  return bytes;
}

}  // namespace

TEST(random_plans_read_every_wanted_byte_once_and_put_it_where_it_is_wanted) {
  std::mt19937_64 random(2);
  const auto one_of = [&random](std::initializer_list<std::uint64_t> choices) {
    return choices.begin()[random() % choices.size()];
  };
  for (int round = 0; round < 200; ++round) {
    Groups groups(1 + random() % 3);
    std::uint64_t start = random() % 5000;
    std::uint64_t address = random() % (1ULL << 40U);
    for (std::uint64_t i = random() % 9; i > 0; --i) {
      const std::uint64_t nbytes = one_of({0, 1, 40, 300, 1000});
      const std::uint64_t rows = one_of({1, 1, 2, 5});
      const std::uint64_t file_pitch = nbytes + one_of({0, 1, 500, kReadThrough, kReadThrough + 1});
      const std::uint64_t pitch = nbytes + one_of({0, 0, 3, 256});
      groups[random() % groups.size()].push_back(
          {random() % 3, start, start + nbytes, address, rows, file_pitch, pitch});
      address += rows * pitch;
      start += one_of({0, nbytes, rows * file_pitch, rows * file_pitch + kReadThrough});
    }
    const std::uint64_t chunk_bytes = one_of({64, 1000, 4096, 8192, 65536});
    const PlannedLoad load = planned(groups, chunk_bytes, one_of({1, 300, kMost}));
    CHECK(done(load, groups.size(), chunk_bytes) == wanted(groups));
  }
}

TEST(many_copies_of_few_bytes_share_reads) {
  Groups groups(1);
  for (std::uint64_t i = 0; i < 3 * kMaxCopies; ++i) groups[0].push_back({0, i * 100, i * 100 + 100, i * 1000});
  const PlannedLoad load = planned(groups, 1U << 22U);
  CHECK(load.flat.reads.size() <= 4 * kNumbersPerRead);
  CHECK_EQ(load.nbytes, 300 * kMaxCopies);
}

TEST(offsets_and_addresses_up_to_the_last_do_not_wrap) {
  const PlannedLoad one = planned({{{kMost, kMost - 10, kMost, kMost - 10}}}, kMost);
  CHECK(one.flat.reads == Numbers({kMost, kMost - 10, 10, 0, 0}));
  CHECK(one.flat.copies == Numbers({0, kMost - 10, 10, 1, 0, 0}));
  const PlannedLoad rows = planned({{{0, kMost - 120, kMost - 110, kMost - 410, 2, 110, 400}}}, 4096);
  CHECK(rows.flat.reads == Numbers({0, kMost - 120, 120, 0, 0}));
  CHECK(rows.flat.copies == Numbers({0, kMost - 410, 10, 2, 110, 400}));
  const PlannedLoad apart = planned({{{0, 0, 1, 0, 2, kMost - 1, kMost - 1}}}, 1);
  CHECK(apart.flat.reads == Numbers({0, 0, 1, 0, 0, 0, kMost - 1, 1, 0, 1}));
  const PlannedLoad all = planned({{{0, 0, kMost, 0}}}, kMost);
  CHECK_EQ(all.nbytes, kMost);
  CHECK_EQ(all.flat.reads.size(), kNumbersPerRead);
}

TEST(faults_are_told_apart) {
  const auto fault = [](const WantedCopy& copy) { return find_fault(copy); };
  CHECK(fault({0, 10, 9, 0}) == CopyFault::kRange);
  CHECK(fault({0, 0, 10, kMost - 9}) == CopyFault::kRange);
  CHECK(fault({0, 0, 10, kMost - 10}) == CopyFault::kNone);
  CHECK(fault({0, 0, 10, 0, 0, 10, 10}) == CopyFault::kRows);
  CHECK(fault({0, 0, 10, 0, 2, 9, 10}) == CopyFault::kRows);
  CHECK(fault({0, 0, 10, 0, 2, 10, 9}) == CopyFault::kRows);
  CHECK(fault({0, 0, 10, 0, 2, kMost, 10}) == CopyFault::kLastRow);
  CHECK(fault({0, 0, 10, 0, 2, 10, kMost}) == CopyFault::kLastRow);
  CHECK(fault({0, 0, 10, 0, kMost / 4, 10, 10}) == CopyFault::kLastRow);
  CHECK(fault({0, 0, 1, 0, kMost, 1, 1}) == CopyFault::kNone);
  CHECK(fault({0, 0, 0, 0, kMost, 0, 0}) == CopyFault::kNone);
  CHECK(describe(CopyFault::kRows, {0, 5, 15, 0}).find("a row's 10 bytes") != std::string::npos);
}

TEST(one_address_is_not_written_twice) {
  PlannedLoad out;
  const Status status = plan({{{0, 0, 10, 100}}, {{1, 50, 60, 109}}}, 4096, out);
  CHECK(status.code == Code::kInvalid);
  CHECK_EQ(status.text, "two copies write to address 109: an earlier one reaches to 110");
  const Status rows = plan({{{0, 0, 10, 1000, 3, 10, 100}, {1, 0, 10, 1105}}}, 4096, out);
  CHECK_EQ(rows.text, "two copies write to address 1105: an earlier one reaches to 1110");
}

TEST(rows_that_no_memory_could_hold_are_refused_at_once) {
  Groups groups(1);  // of 2^58 rows
  for (std::uint64_t i = 0; i < 128; ++i) groups[0].push_back({0, 0, 1, i << 51U, 1ULL << 51U, kReadThrough + 2, 1});
  PlannedLoad out;
  bool refused = false;
  try {
    static_cast<void>(plan(groups, 4096, out));
  } catch (const std::bad_alloc&) {
    refused = true;
  }
  CHECK(refused);
  // Packed in the file they are one range, and near to each other they stay together, however many.
  constexpr std::uint64_t kRows = 1ULL << 40U;
  CHECK_EQ(planned({{{0, 0, 8, 0, kRows, 8, 8}}}, kMost).flat.reads.size(), kNumbersPerRead);
  CHECK_EQ(planned({{{0, 0, 8, 0, kRows, 16, 8}}}, kMost).nbytes, kRows * 8);
}
