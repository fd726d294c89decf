// Copies of many rows: read through short gaps together, over long ones apart. A plain range among rows is one row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "plan/flat.hpp"
#include "plan/plain_runs.hpp"
#include "plan/wanted_copy.hpp"

namespace streamload {

// Widest gap between rows that is read rather than left out: the page cache and drives serve whole pages of this size,
// so that a narrower gap costs no more than the read it saves.
inline constexpr std::uint64_t kReadThrough = 4096;
// Most copies in a run of rows. Each leaves a read at most three pieces, which stays below kMaxCopies.
inline constexpr std::size_t kMostTogether = 128;

// How many plain ranges a copy of some bytes is where its rows have no use for each other; 0 where they have.
[[nodiscard]] std::uint64_t count_apart(const WantedCopy& copy) noexcept;
// Appends those ranges.
void take_apart(const WantedCopy& copy, std::vector<PlainRange>& ranges);

struct RowRuns {
  std::vector<WantedCopy> pieces;
  std::vector<std::size_t> begins;  // where the pieces of each run begin

  [[nodiscard]] std::span<const WantedCopy> run(std::size_t number) const {
    const std::size_t end = number + 1 < begins.size() ? begins[number + 1] : pieces.size();
    return std::span(pieces).subspan(begins[number], end - begins[number]);
  }
};

// Moves rows into runs that are read together, and leaves the ranges that are read by themselves; both in order. A run
// has no gap above kReadThrough and at most kMostTogether copies. Ranges in it, or that near to it, are of it.
[[nodiscard]] RowRuns gather_rows(std::span<const WantedCopy> rows, std::vector<PlainRange>& ranges);

// Appends the reads of a run of rows, and the copies out of each. A read begins and ends at wanted bytes. It is cut
// where a row begins, or inside a row that is larger than a chunk.
void cut_rows(std::span<const WantedCopy> run, std::uint64_t group, std::uint64_t chunk_bytes, FlatReads& out);

}  // namespace streamload
