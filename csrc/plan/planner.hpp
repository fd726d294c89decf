// Turns copies in execution order into flat, coalesced reads; streamload/_plan says what a plan promises.
//
// Pure: knows ranges and addresses, neither Python nor files. The engine runs the result (engine/plan.hpp is its own
// view of it). Read next: plain_runs and row_runs for what shares a read, overlap for what may not meet.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/status.hpp"
#include "plan/checked.hpp"
#include "plan/flat.hpp"
#include "plan/wanted_copy.hpp"

namespace streamload {

struct PlanRequest {
  std::span<const WantedCopy> copies;       // without fault, group after group
  std::span<const std::size_t> group_ends;  // one past the last copy of each group
  std::uint64_t chunk_bytes = 1;            // largest read, at least 1
  std::uint64_t apart_bytes = kU64Max;      // ranges from here on are read apart from neighbours they do not meet
};

struct PlannedLoad {
  FlatReads flat;
  std::uint64_t nbytes = 0;  // that are copied
};

// Fails with kInvalid where two destinations overlap. Takes memory by the copies and the reads.
[[nodiscard]] Status plan_load(const PlanRequest& request, PlannedLoad& out);

}  // namespace streamload
