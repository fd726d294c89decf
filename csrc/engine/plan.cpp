#include "engine/plan.hpp"

#include <string>

namespace streamload {
namespace {

Status broken(std::size_t read, const char* what) {
  return Status::failure(Code::kInvalid, "load plan, read " + std::to_string(read) + ": " + what);
}

}  // namespace

Status parse_plan(std::span<const std::uint64_t> reads, std::span<const std::uint64_t> copies,
                  std::uint32_t group_count, std::size_t source_count, std::size_t chunk_bytes, Plan& out) {
  if (reads.size() % kNumbersPerRead != 0 || copies.size() % kNumbersPerCopy != 0) {
    return Status::failure(Code::kInvalid, "load plan: an array ends inside a step");
  }
  const std::size_t read_count = reads.size() / kNumbersPerRead;
  const std::size_t copy_count = copies.size() / kNumbersPerCopy;
  Plan plan;
  plan.group_count = group_count;
  plan.reads.reserve(read_count);
  plan.copies.reserve(copy_count);
  std::vector<std::size_t> first_of;
  for (std::size_t i = 0; i < copy_count; ++i) {
    const auto step = copies.subspan(i * kNumbersPerCopy, kNumbersPerCopy);
    first_of.push_back(plan.copies.size());
    for (std::uint64_t row = 0; row < step[3]; ++row) {
      plan.copies.push_back({step[0] + row * step[4], DeviceSpan{step[1] + row * step[5], step[2]}});
      plan.nbytes += step[2];
    }
  }
  first_of.push_back(plan.copies.size());
  std::uint64_t group = 0;
  for (std::size_t i = 0; i < read_count; ++i) {
    const auto step = reads.subspan(i * kNumbersPerRead, kNumbersPerRead);
    const std::uint64_t last_copy = i + 1 < read_count ? reads[(i + 1) * kNumbersPerRead + 4] : copy_count;
    if (step[0] >= source_count) return broken(i, "no such source");
    if (step[2] == 0 || step[2] > chunk_bytes) return broken(i, "empty, or larger than chunk_bytes");
    if (step[3] >= group_count || step[3] < group) return broken(i, "group out of range or out of order");
    if (step[4] >= last_copy || last_copy > copy_count) return broken(i, "copies out of range");
    if (i == 0 && step[4] != 0) return broken(i, "leaves copies out");
    group = step[3];
    for (std::uint64_t c = first_of[step[4]]; c < first_of[last_copy]; ++c) {
      const CopyStep& copy = plan.copies[c];
      if (copy.target.nbytes == 0 || copy.offset > step[2] || copy.target.nbytes > step[2] - copy.offset) {
        return broken(i, "a copy is empty or outside the read");
      }
    }
    plan.reads.push_back(
        {static_cast<std::uint32_t>(step[0]), static_cast<std::uint32_t>(group), step[1], step[2], first_of[step[4]], first_of[last_copy]});
  }
  if (read_count == 0 && copy_count != 0) return Status::failure(Code::kInvalid, "load plan: copies without reads");
  out = std::move(plan);
  return {};
}

}  // namespace streamload
