#include "core/crc32c.hpp"

#include <array>
#include <bit>
#include <cstddef>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#define STREAMLOAD_CRC_TARGET __attribute__((target("sse4.2")))
#elif defined(__aarch64__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#if defined(__clang__)
#define STREAMLOAD_CRC_TARGET __attribute__((target("crc")))
#else
#define STREAMLOAD_CRC_TARGET __attribute__((target("+crc")))
#endif
#endif

namespace streamload {
namespace {

static_assert(std::endian::native == std::endian::little, "eight bytes are taken at once, the first one lowest");

// A CRC is a polynomial over GF(2) modulo P, its highest power in the lowest bit (RFC 3720 appendix B.4 prints it so).
// Multiplying by x^8 appends a byte of zeros; all tables below are such multiplications.
constexpr std::uint32_t kPolynomial = 0x82F63B78;  // 0x1EDC6F41 of RFC 3720 section 12.1, bits reversed
constexpr std::uint32_t kOne = 1U << 31;

constexpr std::uint32_t times_x(std::uint32_t a) { return (a >> 1) ^ ((a & 1U) != 0 ? kPolynomial : 0U); }

constexpr std::uint32_t multiply(std::uint32_t a, std::uint32_t b) {
  std::uint32_t product = 0;
  for (; a != 0; a <<= 1) {
    if ((a & kOne) != 0) product ^= b;
    b = times_x(b);
  }
  return product;
}

// x^(8 · 2^k): what appends 2^k bytes of zeros.
constexpr auto kPowers = [] {
  std::array<std::uint32_t, 64> powers{kOne >> 8};
  for (std::size_t k = 1; k < powers.size(); ++k) powers[k] = multiply(powers[k - 1], powers[k - 1]);
  return powers;
}();

constexpr std::uint32_t append_zeros(std::uint32_t crc, std::uint64_t nbytes) {
  for (std::size_t k = 0; nbytes != 0; ++k, nbytes >>= 1) {
    if ((nbytes & 1U) != 0) crc = multiply(kPowers[k], crc);
  }
  return crc;
}

// Multiplication of a CRC by one constant, byte by byte of the CRC.
using Shift = std::array<std::array<std::uint32_t, 256>, 4>;

constexpr Shift make_shift(std::uint64_t nbytes) {
  Shift shift{};
  for (std::size_t place = 0; place < 4; ++place) {
    for (std::size_t bit = 1; bit < 256; bit <<= 1) {
      shift[place][bit] = append_zeros(static_cast<std::uint32_t>(bit << (8 * place)), nbytes);
      for (std::size_t rest = 1; rest < bit; ++rest) shift[place][bit | rest] = shift[place][bit] ^ shift[place][rest];
    }
  }
  return shift;
}

constexpr std::uint32_t apply(const Shift& shift, std::uint32_t crc) {
  return shift[0][crc & 0xFFU] ^ shift[1][(crc >> 8) & 0xFFU] ^ shift[2][(crc >> 16) & 0xFFU] ^ shift[3][crc >> 24];
}

// Eight bytes at once: the CRC so far lies over the first four of them, which are eight bytes from the new end.
constexpr Shift kBy8 = make_shift(8);
constexpr Shift kBy4 = make_shift(4);
constexpr Shift kBy1 = make_shift(1);

std::uint64_t load8(const std::byte* bytes) noexcept {
  std::uint64_t word = 0;
  std::memcpy(&word, bytes, sizeof word);
  return word;
}

#if defined(STREAMLOAD_CRC_TARGET)

#if defined(__x86_64__)
STREAMLOAD_CRC_TARGET inline std::uint32_t step8(std::uint32_t crc, const std::byte* bytes) noexcept {
  return static_cast<std::uint32_t>(_mm_crc32_u64(crc, load8(bytes)));
}
STREAMLOAD_CRC_TARGET inline std::uint32_t step1(std::uint32_t crc, std::byte byte) noexcept {
  return _mm_crc32_u8(crc, std::to_integer<std::uint8_t>(byte));
}
#else
STREAMLOAD_CRC_TARGET inline std::uint32_t step8(std::uint32_t crc, const std::byte* bytes) noexcept {
  return __crc32cd(crc, load8(bytes));
}
STREAMLOAD_CRC_TARGET inline std::uint32_t step1(std::uint32_t crc, std::byte byte) noexcept {
  return __crc32cb(crc, std::to_integer<std::uint8_t>(byte));
}
#endif

// The instruction answers after three cycles and could start each cycle, so three neighbouring lanes go side by side
// (Gopal et al., "Fast CRC Computation for iSCSI Polynomial Using CRC32 Instruction", Intel 2011). Their three CRCs
// are joined by a shift over one lane, twice.
template <std::size_t kLane>
STREAMLOAD_CRC_TARGET std::uint32_t three_lanes(std::uint32_t crc, ConstHostSpan& bytes) noexcept {
  static constexpr Shift kOverLane = make_shift(kLane);
  while (bytes.size() >= 3 * kLane) {
    const std::byte* at = bytes.data();
    std::uint32_t second = 0;
    std::uint32_t third = 0;
    for (const std::byte* const end = at + kLane; at != end; at += 8) {
      crc = step8(crc, at);
      second = step8(second, at + kLane);
      third = step8(third, at + 2 * kLane);
    }
    crc = apply(kOverLane, apply(kOverLane, crc) ^ second) ^ third;
    bytes = bytes.subspan(3 * kLane);
  }
  return crc;
}

STREAMLOAD_CRC_TARGET std::uint32_t by_instruction(std::uint32_t crc, ConstHostSpan bytes) noexcept {
  crc = three_lanes<4096>(~crc, bytes);
  crc = three_lanes<128>(crc, bytes);
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) crc = step8(crc, bytes.data());
  for (const std::byte byte : bytes) crc = step1(crc, byte);
  return ~crc;
}

#endif

}  // namespace

bool crc32c_has_instruction() noexcept {
#if defined(__x86_64__)
  return __builtin_cpu_supports("sse4.2") != 0;
#elif defined(__aarch64__)
  return (::getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
#else
  return false;
#endif
}

std::uint32_t crc32c(std::uint32_t crc, ConstHostSpan bytes) noexcept {
#if defined(STREAMLOAD_CRC_TARGET)
  if (crc32c_has_instruction()) return by_instruction(crc, bytes);
#endif
  return crc32c_by_table(crc, bytes);
}

std::uint32_t crc32c_by_table(std::uint32_t crc, ConstHostSpan bytes) noexcept {
  crc = ~crc;
  for (; bytes.size() >= 8; bytes = bytes.subspan(8)) {
    const std::uint64_t word = load8(bytes.data());
    crc = apply(kBy8, crc ^ static_cast<std::uint32_t>(word)) ^ apply(kBy4, static_cast<std::uint32_t>(word >> 32));
  }
  for (const std::byte byte : bytes) {
    crc = (crc >> 8) ^ kBy1[0][(crc ^ std::to_integer<std::uint32_t>(byte)) & 0xFFU];
  }
  return ~crc;
}

std::uint32_t crc32c_combine(std::uint32_t first, std::uint32_t second, std::uint64_t second_bytes) noexcept {
  return append_zeros(first, second_bytes) ^ second;
}

}  // namespace streamload
