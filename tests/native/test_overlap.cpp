// Blocks of memory that meet: each rule with its smallest example, and that it costs nothing to have many rows.
#include <random>
#include <set>
#include <vector>

#include "check.hpp"
#include "plan/overlap.hpp"

using namespace streamload;

namespace {

constexpr std::uint64_t kMost = ~std::uint64_t{0};

std::optional<Meeting> overlap(const std::vector<Block>& blocks) {
  for (const Block& block : blocks) CHECK(is_sound(block));
  return find_overlap(blocks);
}

// Columns of 8 bytes side by side, of one pitch.
std::vector<Block> columns(std::uint64_t count, std::uint64_t rows) {
  std::vector<Block> blocks;
  for (std::uint64_t i = 0; i < count; ++i) blocks.push_back({i * 8, 8, rows, count * 8});
  return blocks;
}

std::set<std::uint64_t> bytes_of(const Block& block) {
  std::set<std::uint64_t> bytes;
  for (std::uint64_t row = 0; row < block.rows; ++row) {
    for (std::uint64_t at = 0; at < block.nbytes; ++at) bytes.insert(block.address + row * block.pitch + at);
  }
  return bytes;
}

}  // namespace

TEST(blocks_that_meet_are_found_in_the_order_of_memory) {
  CHECK(!overlap({}));
  CHECK(!overlap({{0, 10, 1, 0}}));
  CHECK(!overlap({{10, 10, 1, 0}, {0, 10, 1, 0}}));
  CHECK(overlap({{9, 10, 1, 0}, {0, 10, 1, 0}}) == Meeting({9, 1, 0}));
  CHECK(overlap({{0, 10, 1, 0}, {0, 10, 1, 0}}) == Meeting({0, 0, 1}));
}

TEST(rows_may_lie_between_each_others_and_not_on_them) {
  CHECK(!overlap({{0, 10, 3, 100}, {10, 90, 2, 100}, {210, 1000, 1, 0}}));
  CHECK(overlap({{0, 10, 3, 100}, {10, 91, 2, 100}}) == Meeting({100, 1, 0}));
  CHECK(overlap({{0, 10, 3, 100}, {199, 2, 1, 0}}) == Meeting({200, 1, 0}));
  CHECK(!overlap({{0, 10, 3, 100}, {10, 10, 3, 70}}));
  CHECK(overlap({{0, 10, 3, 100}, {11, 10, 3, 90}}) == Meeting({101, 0, 1}));
}

TEST(blocks_up_to_the_last_address_are_told_apart) {
  CHECK(!overlap({{kMost - 10, 10, 1, 0}, {kMost - 20, 10, 1, 0}}));
  CHECK(!overlap({{kMost - 50, 10, 2, 40}, {kMost - 40, 30, 1, 0}}));
  CHECK(overlap({{kMost - 50, 10, 2, 40}, {kMost - 40, 31, 1, 0}}) == Meeting({kMost - 10, 1, 0}));
  CHECK(!overlap({{0, 1, 2, kMost - 1}, {1, kMost - 2, 1, 0}}));
}

TEST(what_is_no_block_is_told) {
  CHECK(is_sound({kMost - 10, 10, 1, 0}));
  CHECK(!is_sound({kMost - 9, 10, 1, 0}));
  CHECK(!is_sound({0, 10, 0, 10}));
  CHECK(!is_sound({0, 10, 2, 9}));
  CHECK(!is_sound({0, 0, 2, 0}));
  CHECK(is_sound({0, 1, kMost, 1}));
  CHECK(!is_sound({1, 1, kMost, 1}));
  CHECK(!is_sound({0, 1, kMost, 2}));
  CHECK(!is_sound({0, 10, 3, 1ULL << 63U}));
}

TEST(rows_are_not_taken_apart) {
  constexpr std::uint64_t kRows = 1ULL << 40U;
  CHECK(!overlap(columns(100, kRows)));
  std::vector<Block> met = columns(100, kRows);
  met.push_back({(kRows - 1) * 800 + 399, 1, 1, 0});
  CHECK(overlap(met) == Meeting({(kRows - 1) * 800 + 399, 49, 100}));
  // Of other pitches, but one behind the other.
  CHECK(!overlap({{0, 8, kRows, 16}, {kRows * 16 - 8, 8, kRows, 24}}));
  CHECK(overlap({{0, 8, kRows, 16}, {kRows * 16 - 9, 8, kRows, 24}}) == Meeting({kRows * 16 - 9, 0, 1}));
}

TEST(many_blocks_of_one_row_cost_little) {
  std::vector<Block> blocks = columns(200'000, 3);
  CHECK(!overlap(blocks));
  blocks.back().nbytes = 9;
  CHECK(overlap(blocks) == Meeting({blocks.size() * 8, blocks.size() - 1, 0}));
}

TEST(an_overlap_is_found_where_there_is_one_and_only_there) {
  std::mt19937_64 random(1);
  const auto upto = [&random](std::uint64_t most) { return random() % (most + 1); };
  for (int round = 0; round < 20'000; ++round) {
    const std::uint64_t pitches[] = {4 + upto(8), 4 + upto(8)};
    std::vector<Block> blocks(upto(5));
    std::set<std::uint64_t> held;
    bool meets = false;
    for (Block& block : blocks) {
      block = {upto(60), 0, 1 + upto(3), pitches[upto(1)]};
      block.nbytes = 1 + upto(block.rows == 1 ? 29 : block.pitch - 1);
      for (const std::uint64_t at : bytes_of(block)) meets = !held.insert(at).second || meets;
    }
    const auto met = overlap(blocks);
    CHECK_EQ(met.has_value(), meets);
    if (!met) continue;
    CHECK(met->first != met->second);
    CHECK(bytes_of(blocks[met->first]).contains(met->address));
    CHECK(bytes_of(blocks[met->second]).contains(met->address));
  }
}
