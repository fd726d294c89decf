#include "plan/plain_runs.hpp"

#include <algorithm>

#include "plan/checked.hpp"

namespace streamload {

std::vector<std::size_t> join_neighbours(std::vector<PlainRange>& ranges, std::uint64_t apart_bytes) {
  std::vector<std::size_t> begins;
  std::size_t joined = 0;
  for (const PlainRange piece : ranges) {  // a copy: places before it are written to
    if (joined != 0) {
      PlainRange& last = ranges[joined - 1];
      if (piece.shard == last.shard && piece.start == last.end) {
        if (piece.address == last.address + last.nbytes()) {
          last.end = piece.end;
          continue;
        }
        if (piece.nbytes() < apart_bytes && last.nbytes() < apart_bytes) {
          ranges[joined++] = piece;
          continue;
        }
      }
    }
    begins.push_back(joined);
    ranges[joined++] = piece;
  }
  ranges.resize(joined);
  return begins;
}

std::uint64_t furthest_end(std::uint64_t begin, std::uint64_t chunk_bytes) noexcept {
  const std::uint64_t lead = chunk_bytes > kReadAlignment ? begin % kReadAlignment : 0;
  return saturating_add(begin - lead, chunk_bytes);
}

void cut_run(std::span<const PlainRange> run, std::uint64_t group, std::uint64_t chunk_bytes, FlatReads& out) {
  const std::uint64_t run_end = run.back().end;
  std::uint64_t begin = run.front().start;
  std::size_t index = 0;
  while (begin < run_end) {
    const std::uint64_t most = run[std::min(index + kMaxCopies, run.size()) - 1].end;
    std::uint64_t end = std::min(furthest_end(begin, chunk_bytes), most);
    const std::uint64_t aligned = end - end % kReadAlignment;
    if (end < run_end && aligned > begin) end = aligned;
    out.add_read(run.front().shard, begin, end - begin, group);
    for (; index < run.size() && run[index].start < end; ++index) {
      const PlainRange& piece = run[index];
      const std::uint64_t first = std::max(piece.start, begin);
      out.add_copy(first - begin, piece.address + (first - piece.start), std::min(piece.end, end) - first);
      if (piece.end > end) break;  // the rest of it belongs to the next read
    }
    begin = end;
  }
}

}  // namespace streamload
