// Arithmetic of 64 bits that does not wrap.
#pragma once

#include <cstdint>
#include <limits>

namespace streamload {

inline constexpr std::uint64_t kU64Max = std::numeric_limits<std::uint64_t>::max();

constexpr std::uint64_t saturating_add(std::uint64_t a, std::uint64_t b) noexcept {
  return a > kU64Max - b ? kU64Max : a + b;
}

// Whether the last of `rows` rows ends within 64 bits, where the first ends at `end`. There is at least one.
constexpr bool last_row_fits(std::uint64_t end, std::uint64_t rows, std::uint64_t pitch) noexcept {
  return rows == 1 || pitch == 0 || rows - 1 <= (kU64Max - end) / pitch;
}

}  // namespace streamload
