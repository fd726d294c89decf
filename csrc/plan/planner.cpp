#include "plan/planner.hpp"

#include <algorithm>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include "plan/checked.hpp"
#include "plan/overlap.hpp"
#include "plan/plain_runs.hpp"
#include "plan/row_runs.hpp"

namespace streamload {
namespace {

class Planner {
 public:
  Planner(const PlanRequest& request, FlatReads& out) : request_(request), out_(out) {
    blocks_.reserve(request.copies.size());
    out_.copies.reserve(request.copies.size() * kNumbersPerCopy);
  }

  void add_group(std::uint64_t number, std::span<const WantedCopy> copies) {
    sort_out(copies);
    RowRuns row_runs;
    if (!rows_.empty()) row_runs = gather_rows(rows_, ranges_);
    const std::vector<std::size_t> begins = join_neighbours(ranges_, request_.apart_bytes);
    std::size_t waiting = 0;  // of the runs of rows
    for (std::size_t i = 0; i < begins.size(); ++i) {
      const std::size_t end = i + 1 < begins.size() ? begins[i + 1] : ranges_.size();
      const auto run = std::span<const PlainRange>(ranges_).subspan(begins[i], end - begins[i]);
      // In the order of the file.
      while (waiting < row_runs.begins.size() && first_of(row_runs.run(waiting)) < run.front()) {
        cut_rows(row_runs.run(waiting++), number, request_.chunk_bytes, out_);
      }
      cut_run(run, number, request_.chunk_bytes, out_);
    }
    while (waiting < row_runs.begins.size()) {
      cut_rows(row_runs.run(waiting++), number, request_.chunk_bytes, out_);
    }
    for (const PlainRange& range : ranges_) blocks_.push_back({range.address, range.nbytes(), 1, 0});
    for (const WantedCopy& piece : row_runs.pieces) {
      row_blocks_.push_back({piece.address, piece.row_bytes(), piece.rows, piece.pitch});
    }
  }

  Status check_destinations(std::uint64_t& nbytes) {
    blocks_.insert(blocks_.end(), row_blocks_.begin(), row_blocks_.end());
    if (const auto met = find_overlap(blocks_)) {
      const Block& block = blocks_[met->first];
      const std::uint64_t row = block.pitch == 0 ? 0 : (met->address - block.address) / block.pitch;
      return Status::failure(Code::kInvalid, "two copies write to address " + std::to_string(met->address) +
                                                 ": an earlier one reaches to " +
                                                 std::to_string(block.address + block.nbytes + row * block.pitch));
    }
    nbytes = 0;
    for (const Block& block : blocks_) nbytes += block.nbytes * block.rows;  // disjoint, so within 64 bits
    return {};
  }

 private:
  static PlainRange first_of(std::span<const WantedCopy> run) noexcept {
    return {run.front().shard, run.front().start, run.front().end, run.front().address};
  }

  // Those that have bytes: ranges in order, and apart from them what stays together as rows.
  void sort_out(std::span<const WantedCopy> copies) {
    ranges_.clear();
    rows_.clear();
    std::uint64_t count = 0;
    for (const WantedCopy& copy : copies) count = saturating_add(count, copy.row_bytes() == 0 ? 0 : count_apart(copy));
    if (count > ranges_.max_size()) throw std::bad_alloc();  // at once, rather than when all memory is taken
    ranges_.reserve(count);
    for (const WantedCopy& copy : copies) {
      if (copy.row_bytes() == 0) continue;
      if (count_apart(copy) == 0) {
        rows_.push_back(copy);
      } else {
        take_apart(copy, ranges_);
      }
    }
    if (!std::is_sorted(ranges_.begin(), ranges_.end())) std::sort(ranges_.begin(), ranges_.end());
  }

  const PlanRequest& request_;
  FlatReads& out_;
  std::vector<PlainRange> ranges_;  // of the group
  std::vector<WantedCopy> rows_;
  std::vector<Block> blocks_;  // of all groups
  std::vector<Block> row_blocks_;
};

}  // namespace

Status plan_load(const PlanRequest& request, PlannedLoad& out) {
  PlannedLoad planned;
  Planner planner(request, planned.flat);
  std::size_t begin = 0;
  for (std::size_t number = 0; number < request.group_ends.size(); ++number) {
    planner.add_group(number, request.copies.subspan(begin, request.group_ends[number] - begin));
    begin = request.group_ends[number];
  }
  Status status = planner.check_destinations(planned.nbytes);
  if (status.ok()) out = std::move(planned);
  return status;
}

}  // namespace streamload
