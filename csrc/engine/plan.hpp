// A load plan as the engine takes it: flat steps, checked once, then trusted by the threads.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "core/spans.hpp"
#include "core/status.hpp"
#include "plan/flat.hpp"

namespace streamload {

// Rows of one read that go to rows of device memory; a plain range is one row.
struct CopyStep {
  std::size_t offset = 0;  // of the first row, inside the read
  std::uintptr_t address = 0;
  std::size_t row_bytes = 0;
  std::size_t rows = 1;
  std::size_t source_pitch = 0;  // from the start of a row to that of the next; of no meaning where there is one
  std::size_t target_pitch = 0;

  [[nodiscard]] std::size_t nbytes() const noexcept { return row_bytes * rows; }
};

// A piece of a read whose checksum is taken; the pieces of one key, in file order, are one tensor.
struct SumStep {
  std::size_t read = 0;
  std::size_t offset = 0;  // inside the read
  std::size_t nbytes = 0;
};

struct SumKey {
  std::uint32_t group = 0;
  std::size_t first_sum = 0;  // [first_sum, last_sum) in Plan::sums
  std::size_t last_sum = 0;
  std::optional<std::uint32_t> expected;  // CRC-32C; nothing where it is only taken
};

struct ReadStep {
  std::uint32_t source = 0;
  std::uint32_t group = 0;
  std::uint64_t offset = 0;  // in the source
  std::size_t nbytes = 0;
  std::size_t first_copy = 0;  // [first_copy, last_copy) in Plan::copies
  std::size_t last_copy = 0;
  std::size_t first_sum = 0;  // [first_sum, last_sum) in Plan::sums_by_read
  std::size_t last_sum = 0;
  bool joined = false;  // of several (join_reads.hpp): it may be longer than a staging buffer
};

struct Plan {
  std::vector<ReadStep> reads;  // in group order
  std::vector<CopyStep> copies;
  std::vector<SumStep> sums;  // in the order of keys, pieces of one key in file order
  std::vector<std::size_t> sums_by_read;
  std::vector<SumKey> keys;
  std::uint32_t group_count = 0;
  std::uint64_t nbytes = 0;  // sum over the copies
};

// The flat arrays that Python hands over.
struct FlatPlan {
  std::span<const std::uint64_t> reads;
  std::span<const std::uint64_t> copies;
  std::span<const std::uint64_t> sums;
  std::span<const std::uint64_t> expected;
  std::uint32_t group_count = 0;
};
inline constexpr std::uint64_t kNotKnown = ~std::uint64_t{0};  // an expected checksum that nobody has

// Builds a Plan from flat arrays. Fails with kInvalid where a step breaks the contract: a source, group, copy, read or
// key out of range, groups or keys out of order, a read larger than `chunk_bytes`, a read without copies and sums, a
// copy or a sum outside its read, the sums of a key in several groups.
[[nodiscard]] Status parse_plan(const FlatPlan& flat, std::size_t source_count, std::size_t chunk_bytes, Plan& out);

}  // namespace streamload
