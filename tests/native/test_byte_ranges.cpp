// ByteRanges against a plain bitmap.
#include <bitset>
#include <random>

#include "check.hpp"
#include "io/byte_ranges.hpp"

using namespace streamload;

namespace {

constexpr std::uint64_t kBytes = 48;
using Bits = std::bitset<kBytes>;

Bits bits_of(ByteRange range) {
  Bits bits;
  for (std::uint64_t i = range.start; i < range.end; ++i) bits.set(i);
  return bits;
}

}  // namespace

TEST(ranges_behave_like_a_bitmap) {
  std::mt19937 random(7);
  std::uniform_int_distribution<std::uint64_t> any(0, kBytes);
  for (int round = 0; round < 300; ++round) {
    ByteRanges ranges;
    Bits bits;
    for (int step = 0; step < 60; ++step) {
      std::uint64_t a = any(random);
      std::uint64_t b = any(random);
      if (a > b) std::swap(a, b);
      const Bits one = bits_of({a, b});
      if (step % 3 == 2) {
        ranges.remove({a, b});
        bits &= ~one;
      } else {
        ranges.add({a, b});
        bits |= one;
      }
      const std::uint64_t c = any(random);
      const ByteRange asked{std::min(a, c), std::max(a, c)};
      const Bits wanted = bits_of(asked);
      CHECK_EQ(ranges.total(), bits.count());
      CHECK_EQ(ranges.covers(asked), (bits & wanted) == wanted);
      CHECK_EQ(ranges.overlaps(asked), (bits & wanted).any());
      Bits missing;
      std::uint64_t last = 0;
      for (const ByteRange gap : ranges.missing(asked)) {
        CHECK(gap.start < gap.end && gap.start >= last);
        last = gap.end + 1;  // two gaps never touch
        missing |= bits_of(gap);
      }
      CHECK(missing == (wanted & ~bits));
    }
  }
}

TEST(neighbours_become_one_range) {
  ByteRanges ranges;
  ranges.add({0, 4});
  ranges.add({8, 12});
  ranges.add({4, 8});
  CHECK(ranges.covers({0, 12}));
  CHECK(ranges.missing({0, 12}).empty());
  CHECK_EQ(ranges.missing({10, 20}).size(), 1U);
}
