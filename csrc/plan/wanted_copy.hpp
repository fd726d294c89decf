// What is asked of a plan, and what it must be like.
#pragma once

#include <compare>
#include <cstdint>
#include <string>

namespace streamload {

// A range of a file wanted at an address, or rows of ranges at as many addresses. In the order of shards and files.
struct WantedCopy {
  std::uint64_t shard = 0;
  std::uint64_t start = 0;  // in the file, of the first row
  std::uint64_t end = 0;
  std::uint64_t address = 0;
  std::uint64_t rows = 1;
  std::uint64_t file_pitch = 0;  // from the start of a row to that of the next; of no meaning where there is one
  std::uint64_t pitch = 0;

  auto operator<=>(const WantedCopy&) const = default;
  [[nodiscard]] std::uint64_t row_bytes() const noexcept { return end - start; }
  // The end of the last row in the file, of a copy without fault.
  [[nodiscard]] std::uint64_t reach() const noexcept { return end + (rows - 1) * file_pitch; }
};

enum class CopyFault : std::uint8_t {
  kNone,
  kRange,    // the first row is reversed, or does not end within 64 bits in the file or at its address
  kRows,     // there are none, or they overlap
  kLastRow,  // it does not end within 64 bits in the file or at its address
};

// What is wrong with a copy, the first of the kinds above. Without fault no offset and no address in it wraps.
[[nodiscard]] CopyFault find_fault(const WantedCopy& copy) noexcept;
// What a fault is, in words that go behind the copy.
[[nodiscard]] std::string describe(CopyFault fault, const WantedCopy& copy);

}  // namespace streamload
