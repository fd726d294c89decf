// Find two blocks of memory that meet, without taking rows apart where it can be helped.
//
// Columns of one parameter interleave: their rows lie between each other's, and yet no byte is in two of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace streamload {

struct Block {
  std::uint64_t address = 0;
  std::uint64_t nbytes = 0;  // of a row
  std::uint64_t rows = 1;
  std::uint64_t pitch = 0;  // from the start of a row to that of the next; of no meaning where there is one
};

// Whether a block has rows, which do not overlap, and ends within 64 bits.
[[nodiscard]] bool is_sound(const Block& block) noexcept;

struct Meeting {
  std::uint64_t address = 0;  // that both hold
  std::size_t first = 0;      // the block that begins before the other, there
  std::size_t second = 0;

  bool operator==(const Meeting&) const = default;
};

// Nothing: no two blocks meet. All must be sound. Takes memory by the number of blocks, whatever their rows; and time
// too, but for blocks of different pitches whose rows lie between each other's.
[[nodiscard]] std::optional<Meeting> find_overlap(std::span<const Block> blocks);

}  // namespace streamload
