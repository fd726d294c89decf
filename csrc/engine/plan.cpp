#include "engine/plan.hpp"

#include <algorithm>
#include <numeric>
#include <string>
#include <utility>

namespace streamload {
namespace {

Status broken(const char* step, std::size_t index, const char* what) {
  return Status::failure(Code::kInvalid, "load plan, " + std::string(step) + " " + std::to_string(index) + ": " + what);
}

// Whether `rows` rows that begin at `offset` end inside `nbytes`; no product here may wrap.
bool fits(const CopyStep& copy, std::size_t nbytes) noexcept {
  if (copy.row_bytes == 0 || copy.rows == 0 || copy.offset > nbytes) return false;
  const std::size_t room = nbytes - copy.offset;
  if (copy.row_bytes > room) return false;
  if (copy.rows == 1) return true;
  if (copy.source_pitch < copy.row_bytes || copy.target_pitch < copy.row_bytes) return false;
  return copy.rows - 1 <= (room - copy.row_bytes) / copy.source_pitch &&
         copy.rows - 1 <= (~copy.address - copy.row_bytes) / copy.target_pitch;
}

void parse_copies(const FlatPlan& flat, Plan& plan) {
  plan.copies.reserve(flat.copies.size() / kNumbersPerCopy);
  for (std::size_t i = 0; i < flat.copies.size(); i += kNumbersPerCopy) {
    const auto step = flat.copies.subspan(i, kNumbersPerCopy);
    plan.copies.push_back({step[0], step[1], step[2], step[3], step[4], step[5]});
  }
}

Status parse_reads(const FlatPlan& flat, std::size_t source_count, std::size_t chunk_bytes, Plan& plan) {
  const std::size_t read_count = flat.reads.size() / kNumbersPerRead;
  const std::size_t copy_count = plan.copies.size();
  plan.reads.reserve(read_count);
  std::uint64_t group = 0;
  for (std::size_t i = 0; i < read_count; ++i) {
    const auto step = flat.reads.subspan(i * kNumbersPerRead, kNumbersPerRead);
    const std::uint64_t last_copy = i + 1 < read_count ? flat.reads[(i + 1) * kNumbersPerRead + 4] : copy_count;
    if (step[0] >= source_count) return broken("read", i, "no such source");
    if (step[2] == 0 || step[2] > chunk_bytes) return broken("read", i, "empty, or larger than chunk_bytes");
    if (step[3] >= flat.group_count || step[3] < group) return broken("read", i, "group out of range or out of order");
    if (step[4] > last_copy || last_copy > copy_count) return broken("read", i, "copies out of range");
    if (i == 0 && step[4] != 0) return broken("read", i, "leaves copies out");
    group = step[3];
    for (std::uint64_t c = step[4]; c < last_copy; ++c) {
      if (!fits(plan.copies[c], step[2])) return broken("read", i, "a copy is empty or outside the read");
      plan.nbytes += plan.copies[c].nbytes();
    }
    plan.reads.push_back(
        {static_cast<std::uint32_t>(step[0]), static_cast<std::uint32_t>(group), step[1], step[2], step[4], last_copy});
  }
  if (read_count == 0 && copy_count != 0) return Status::failure(Code::kInvalid, "load plan: copies without reads");
  return {};
}

Status parse_sums(const FlatPlan& flat, Plan& plan) {
  const std::size_t count = flat.sums.size() / kNumbersPerSum;
  plan.sums.reserve(count);
  plan.keys.resize(flat.expected.size());
  std::size_t key = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const auto step = flat.sums.subspan(i * kNumbersPerSum, kNumbersPerSum);
    if (step[0] >= plan.reads.size()) return broken("sum", i, "no such read");
    if (step[3] >= plan.keys.size() || step[3] < key) return broken("sum", i, "key out of range or out of order");
    const ReadStep& read = plan.reads[step[0]];
    if (step[1] > read.nbytes || step[2] > read.nbytes - step[1]) return broken("sum", i, "outside its read");
    key = step[3];
    SumKey& owner = plan.keys[key];
    if (owner.last_sum == 0) {
      owner.first_sum = i;
      owner.group = read.group;
    }
    if (owner.group != read.group) return broken("sum", i, "a key's pieces lie in several groups");
    owner.last_sum = i + 1;
    plan.sums.push_back({step[0], step[1], step[2]});
  }
  for (std::size_t i = 0; i < plan.keys.size(); ++i) {
    const std::uint64_t expected = flat.expected[i];
    if (expected != kNotKnown && expected > 0xFFFFFFFF) return broken("key", i, "a checksum of more than 32 bits");
    if (expected != kNotKnown) plan.keys[i].expected = static_cast<std::uint32_t>(expected);
  }
  if (plan.group_count == 0 && !plan.keys.empty()) return broken("key", 0, "there are no groups");
  plan.sums_by_read.resize(count);
  std::iota(plan.sums_by_read.begin(), plan.sums_by_read.end(), std::size_t{0});
  std::sort(plan.sums_by_read.begin(), plan.sums_by_read.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(plan.sums[a].read, a) < std::pair(plan.sums[b].read, b);
  });
  for (std::size_t i = 0; i < count; ++i) {
    ReadStep& read = plan.reads[plan.sums[plan.sums_by_read[i]].read];
    if (read.last_sum == 0) read.first_sum = i;
    read.last_sum = i + 1;
  }
  return {};
}

}  // namespace

Status parse_plan(const FlatPlan& flat, std::size_t source_count, std::size_t chunk_bytes, Plan& out) {
  if (flat.reads.size() % kNumbersPerRead != 0 || flat.copies.size() % kNumbersPerCopy != 0 ||
      flat.sums.size() % kNumbersPerSum != 0) {
    return Status::failure(Code::kInvalid, "load plan: an array ends inside a step");
  }
  Plan plan;
  plan.group_count = flat.group_count;
  parse_copies(flat, plan);
  Status status = parse_reads(flat, source_count, chunk_bytes, plan);
  if (status.ok()) status = parse_sums(flat, plan);
  for (std::size_t i = 0; status.ok() && i < plan.reads.size(); ++i) {
    const ReadStep& read = plan.reads[i];
    if (read.first_copy == read.last_copy && read.last_sum == 0) status = broken("read", i, "is for nothing");
  }
  if (status.ok()) out = std::move(plan);
  return status;
}

}  // namespace streamload
