#include <algorithm>
#include <array>
#include <cstring>
#include <random>
#include <string_view>
#include <vector>

#include "check.hpp"
#include "core/crc32c.hpp"

using namespace streamload;

namespace {

// Bit by bit, as RFC 3720 section 12.1 tells it; shares nothing with what is tested but the polynomial.
std::uint32_t oracle(std::uint32_t crc, ConstHostSpan bytes) {
  crc = ~crc;
  for (const std::byte byte : bytes) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      const bool odd = ((crc ^ (std::to_integer<std::uint32_t>(byte) >> bit)) & 1U) != 0;
      crc = (crc >> 1) ^ (odd ? 0x82F63B78U : 0U);
    }
  }
  return ~crc;
}

std::vector<std::byte> random_bytes(std::size_t nbytes, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(nbytes);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

void check_both(ConstHostSpan bytes, std::uint32_t expected) {
  CHECK_EQ(crc32c(0, bytes), expected);
  CHECK_EQ(crc32c_by_table(0, bytes), expected);
}

}  // namespace

TEST(the_vectors_of_rfc_3720_appendix_b_4_hold) {
  std::array<std::byte, 32> bytes{};
  check_both(bytes, 0x8A9136AA);
  bytes.fill(std::byte{0xFF});
  check_both(bytes, 0x62A8AB43);
  for (std::size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<std::byte>(i);
  check_both(bytes, 0x46DD794E);
  std::reverse(bytes.begin(), bytes.end());
  check_both(bytes, 0x113FDB5C);
  // An iSCSI SCSI Read (10) command.
  std::array<std::byte, 48> command{};
  const std::array<std::pair<std::size_t, int>, 8> set{
      {{0, 0x01}, {1, 0xC0}, {16, 0x14}, {22, 0x04}, {27, 0x14}, {31, 0x18}, {32, 0x28}, {40, 0x02}}};
  for (const auto& [at, value] : set) command[at] = static_cast<std::byte>(value);
  check_both(command, 0xD9963A56);
}

TEST(the_check_value_of_the_catalogue_holds) {
  const std::string_view digits = "123456789";  // the CRC catalogue's input for every CRC
  check_both(std::as_bytes(std::span(digits)), 0xE3069283);
}

TEST(no_bytes_leave_a_crc_as_it_is) {
  for (const std::uint32_t crc : {0U, 1U, 0xFFFFFFFFU, 0x12345678U}) {
    CHECK_EQ(crc32c(crc, {}), crc);
    CHECK_EQ(crc32c_by_table(crc, {}), crc);
  }
}

TEST(every_short_length_at_every_alignment_equals_the_oracle) {
  const auto bytes = random_bytes(320, 1);
  for (std::size_t start = 0; start < 16; ++start) {
    for (std::size_t nbytes = 0; nbytes <= 300; ++nbytes) {
      const auto piece = ConstHostSpan(bytes).subspan(start, nbytes);
      const std::uint32_t expected = oracle(0xDEADBEEF, piece);
      CHECK_EQ(crc32c(0xDEADBEEF, piece), expected);
      CHECK_EQ(crc32c_by_table(0xDEADBEEF, piece), expected);
    }
  }
}

TEST(lengths_around_the_lanes_equal_the_oracle) {
  const auto bytes = random_bytes(40000, 2);
  for (const std::size_t around : {384UL, 768UL, 12288UL, 12672UL, 24576UL, 36864UL}) {
    for (std::size_t nbytes = around - 9; nbytes <= around + 9; ++nbytes) {
      const auto piece = ConstHostSpan(bytes).subspan(nbytes % 7, nbytes);
      check_both(piece, oracle(0, piece));
    }
  }
}

TEST(the_instruction_equals_the_table_over_random_pieces) {
  const auto bytes = random_bytes(1 << 20, 3);
  std::mt19937 random(4);
  for (int i = 0; i < 300; ++i) {
    const std::size_t start = random() % bytes.size();
    const std::size_t nbytes = random() % (bytes.size() - start + 1);
    const auto piece = ConstHostSpan(bytes).subspan(start, nbytes);
    const auto crc = static_cast<std::uint32_t>(random());
    CHECK_EQ(crc32c(crc, piece), crc32c_by_table(crc, piece));
  }
}

TEST(a_crc_carried_on_over_a_cut_is_that_of_the_whole) {
  const auto bytes = random_bytes(5000, 5);
  const std::uint32_t whole = oracle(0, bytes);
  for (std::size_t cut = 0; cut <= bytes.size(); cut += 13) {
    const auto [head, tail] = std::pair(ConstHostSpan(bytes).first(cut), ConstHostSpan(bytes).subspan(cut));
    CHECK_EQ(crc32c(crc32c(0, head), tail), whole);
  }
}

TEST(pieces_combine_to_the_whole_wherever_it_is_cut) {
  const auto bytes = random_bytes(100000, 6);
  const std::uint32_t whole = crc32c(0, bytes);
  std::mt19937 random(7);
  for (int i = 0; i < 200; ++i) {
    std::vector<std::size_t> cuts{0, bytes.size()};
    for (auto n = random() % 6; n > 0; --n) cuts.push_back(random() % (bytes.size() + 1));
    std::sort(cuts.begin(), cuts.end());
    std::uint32_t crc = 0;
    for (std::size_t n = 1; n < cuts.size(); ++n) {
      const std::size_t nbytes = cuts[n] - cuts[n - 1];
      crc = crc32c_combine(crc, crc32c(0, ConstHostSpan(bytes).subspan(cuts[n - 1], nbytes)), nbytes);
    }
    CHECK_EQ(crc, whole);
  }
}

TEST(combining_with_nothing_changes_nothing) {
  const auto bytes = random_bytes(77, 8);
  const std::uint32_t crc = crc32c(0, bytes);
  CHECK_EQ(crc32c_combine(crc, 0, 0), crc);
  CHECK_EQ(crc32c_combine(0, crc, bytes.size()), crc);
  CHECK_EQ(crc32c_combine(0, 0, 0), 0U);
}

TEST(lengths_beyond_32_bits_combine_as_steps_of_shorter_ones) {
  const std::uint64_t far = (1ULL << 40) + 12345;
  std::uint32_t steps = 0x12345678;
  for (std::uint64_t left = far; left != 0;) {
    const std::uint64_t step = std::min<std::uint64_t>(left, (1ULL << 31) - 1);
    steps = crc32c_combine(steps, 0, step);
    left -= step;
  }
  CHECK_EQ(crc32c_combine(0x12345678, 0, far), steps);
  // All bits of a length count: x^8 taken 2^64 - 1 times and once more is x^8 taken 2^64 times, by squaring.
  const std::uint32_t most = crc32c_combine(0x12345678, 0, ~0ULL);
  std::uint32_t squared = crc32c_combine(0x12345678, 0, 1ULL << 63);
  squared = crc32c_combine(squared, 0, 1ULL << 63);
  CHECK_EQ(crc32c_combine(most, 0, 1), squared);
}

TEST(every_single_flipped_bit_is_noticed) {
  auto bytes = random_bytes(512, 9);
  const std::uint32_t crc = crc32c(0, bytes);
  for (std::byte& byte : bytes) {
    for (unsigned bit = 0; bit < 8; ++bit) {
      byte ^= static_cast<std::byte>(1U << bit);
      CHECK(crc32c(0, bytes) != crc);
      byte ^= static_cast<std::byte>(1U << bit);
    }
  }
}
