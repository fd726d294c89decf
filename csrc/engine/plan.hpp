// A load plan as the engine takes it: flat steps, checked once, then trusted by the threads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/spans.hpp"
#include "core/status.hpp"

namespace streamload {

struct CopyStep {
  std::size_t offset = 0;  // inside the read
  DeviceSpan target;
};

struct ReadStep {
  std::uint32_t source = 0;
  std::uint32_t group = 0;
  std::uint64_t offset = 0;  // in the source
  std::size_t nbytes = 0;
  std::size_t first_copy = 0;  // [first_copy, last_copy) in Plan::copies
  std::size_t last_copy = 0;
};

struct Plan {
  std::vector<ReadStep> reads;  // in group order
  std::vector<CopyStep> copies;
  std::uint32_t group_count = 0;
  std::uint64_t nbytes = 0;  // sum over the copies
};

// Numbers per step in the flat arrays that Python hands over (streamload/_plan.py documents them).
inline constexpr std::size_t kNumbersPerRead = 5;
inline constexpr std::size_t kNumbersPerCopy = 6;

// Builds a Plan from flat arrays. Fails with kInvalid where a step breaks the contract: a source, group or copy
// out of range, groups out of order, a read larger than `chunk_bytes`, a copy outside its read.
[[nodiscard]] Status parse_plan(std::span<const std::uint64_t> reads, std::span<const std::uint64_t> copies,
                                std::uint32_t group_count, std::size_t source_count, std::size_t chunk_bytes,
                                Plan& out);

}  // namespace streamload
