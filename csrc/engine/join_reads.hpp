// Longer reads for bytes that go straight from a file into their place: a chunk is as long as a staging buffer, which
// they need none of, and each read costs a reading thread and a completion.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>

#include "engine/plan.hpp"

namespace streamload {

// Lets reads of one group that follow each other in their source and in memory be one of up to `most` bytes, where
// file offset and address agree on kDirectAlignment and `may_join` says so of the source. Only reads of one plain copy
// each; and none where sums are taken, which are counted by the reads that were planned.
void join_reads(Plan& plan, std::size_t most, const std::function<bool(std::uint32_t source)>& may_join);

// The `most` that leaves each of so many reading threads several reads of so many bytes.
[[nodiscard]] std::size_t longest_in_place(std::uint64_t nbytes, std::size_t threads) noexcept;

}  // namespace streamload
