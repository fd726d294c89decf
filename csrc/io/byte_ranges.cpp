#include "io/byte_ranges.hpp"

#include <algorithm>
#include <iterator>

namespace streamload {

void ByteRanges::add(ByteRange range) {
  if (range.start >= range.end) return;
  auto at = end_of_.upper_bound(range.start);
  if (at != end_of_.begin() && std::prev(at)->second >= range.start) --at;
  while (at != end_of_.end() && at->first <= range.end) {
    range.start = std::min(range.start, at->first);
    range.end = std::max(range.end, at->second);
    total_ -= at->second - at->first;
    at = end_of_.erase(at);
  }
  end_of_.emplace(range.start, range.end);
  total_ += range.end - range.start;
}

void ByteRanges::remove(ByteRange range) {
  if (range.start >= range.end) return;
  auto at = end_of_.upper_bound(range.start);
  if (at != end_of_.begin() && std::prev(at)->second > range.start) --at;
  while (at != end_of_.end() && at->first < range.end) {
    const ByteRange cut{at->first, at->second};
    total_ -= cut.end - cut.start;
    at = end_of_.erase(at);
    for (const ByteRange kept : {ByteRange{cut.start, range.start}, ByteRange{range.end, cut.end}}) {
      if (kept.start >= kept.end) continue;
      at = std::next(end_of_.emplace(kept.start, kept.end).first);
      total_ += kept.end - kept.start;
    }
  }
}

bool ByteRanges::covers(ByteRange range) const {
  if (range.start >= range.end) return true;
  const auto after = end_of_.upper_bound(range.start);
  return after != end_of_.begin() && std::prev(after)->second >= range.end;
}

bool ByteRanges::overlaps(ByteRange range) const {
  if (range.start >= range.end) return false;
  const auto after = end_of_.lower_bound(range.end);  // the first that starts at or behind the end
  return after != end_of_.begin() && std::prev(after)->second > range.start;
}

std::vector<ByteRange> ByteRanges::missing(ByteRange range) const {
  std::vector<ByteRange> gaps;
  auto at = end_of_.upper_bound(range.start);
  if (at != end_of_.begin()) range.start = std::max(range.start, std::min(range.end, std::prev(at)->second));
  for (; range.start < range.end; ++at) {
    const bool last = at == end_of_.end() || at->first >= range.end;
    gaps.push_back({range.start, last ? range.end : at->first});
    if (last) break;
    range.start = std::min(range.end, at->second);
  }
  return gaps;
}

}  // namespace streamload
