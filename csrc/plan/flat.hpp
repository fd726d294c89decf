// A plan as it crosses to Python and back: flat arrays of numbers (streamload/_plan documents them).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace streamload {

inline constexpr std::size_t kNumbersPerRead = 5;  // source, offset, bytes, group, first copy
inline constexpr std::size_t kNumbersPerCopy = 6;  // offset, address, bytes of a row, rows, pitch in the read, pitch
inline constexpr std::size_t kNumbersPerSum = 4;   // read, offset, bytes, key

// Reads and copies while they are planned.
struct FlatReads {
  std::vector<std::uint64_t> reads;
  std::vector<std::uint64_t> copies;

  // Returns the place of its length, for a read whose end is found later.
  std::size_t add_read(std::uint64_t shard, std::uint64_t offset, std::uint64_t nbytes, std::uint64_t group) {
    reads.insert(reads.end(), {shard, offset, nbytes, group, copies.size() / kNumbersPerCopy});
    return reads.size() - 3;
  }
  void add_copy(std::uint64_t offset, std::uint64_t address, std::uint64_t row_bytes, std::uint64_t rows = 1,
                std::uint64_t read_pitch = 0, std::uint64_t pitch = 0) {
    copies.insert(copies.end(), {offset, address, row_bytes, rows, read_pitch, pitch});
  }
};

}  // namespace streamload
