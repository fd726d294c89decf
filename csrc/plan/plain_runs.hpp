// Plain ranges of files: those that follow each other without a gap share reads.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "plan/flat.hpp"

namespace streamload {

// Most copies that one read is scattered to; bounds the work between two chunks.
inline constexpr std::size_t kMaxCopies = 512;
// File offsets that a cut between two reads falls on: what direct I/O wants on every disk in use.
inline constexpr std::uint64_t kReadAlignment = 4096;

struct PlainRange {  // in the order of shards and files
  std::uint64_t shard;
  std::uint64_t start;
  std::uint64_t end;
  std::uint64_t address;

  auto operator<=>(const PlainRange&) const = default;
  [[nodiscard]] std::uint64_t nbytes() const noexcept { return end - start; }
};

// Joins ranges, in order, that have no gap between them in the file and at the destination. Returns where each run
// begins: ranges without a gap in the file, and none of `apart_bytes` or more among others.
[[nodiscard]] std::vector<std::size_t> join_neighbours(std::vector<PlainRange>& ranges, std::uint64_t apart_bytes);

// The furthest that a read may reach that begins at `begin`. Counted from the aligned block it starts in, so that a
// direct read of it fits a buffer of `chunk_bytes` too.
[[nodiscard]] std::uint64_t furthest_end(std::uint64_t begin, std::uint64_t chunk_bytes) noexcept;

// Appends the reads of a run, and the copies out of each.
void cut_run(std::span<const PlainRange> run, std::uint64_t group, std::uint64_t chunk_bytes, FlatReads& out);

}  // namespace streamload
