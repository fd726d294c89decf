#include "plan/row_runs.hpp"

#include <algorithm>

#include "plan/checked.hpp"

namespace streamload {
namespace {

// The first row that ends behind an offset; as many as there are where none does.
std::uint64_t first_row_behind(const WantedCopy& piece, std::uint64_t offset) noexcept {
  return offset < piece.end ? 0 : std::min((offset - piece.end) / piece.file_pitch + 1, piece.rows);
}

// How many rows begin before an offset.
std::uint64_t rows_before(const WantedCopy& piece, std::uint64_t offset) noexcept {
  return offset <= piece.start ? 0 : std::min((offset - piece.start - 1) / piece.file_pitch + 1, piece.rows);
}

// The first wanted byte at or behind an offset; beyond every file where there is none.
std::uint64_t next_byte(const WantedCopy& piece, std::uint64_t offset) noexcept {
  const std::uint64_t row = first_row_behind(piece, offset);
  return row < piece.rows ? std::max(offset, piece.start + row * piece.file_pitch) : kU64Max;
}

// The last place up to `end` where a row begins, else one that is aligned, else `end`.
std::uint64_t find_cut(std::span<const WantedCopy> run, std::uint64_t begin, std::uint64_t end) noexcept {
  std::uint64_t cut = begin;
  for (const WantedCopy& piece : run) {
    if (piece.start > end) continue;
    const std::uint64_t row = std::min((end - piece.start) / piece.file_pitch, piece.rows - 1);
    cut = std::max(cut, piece.start + row * piece.file_pitch);
  }
  if (cut > begin) return cut;
  const std::uint64_t aligned = end - end % kReadAlignment;
  return aligned > begin ? aligned : end;
}

// Appends what of a copy lies in a read of [begin, end), in at most three pieces. Returns where the last of it ends,
// `begin` where there is none.
std::uint64_t copy_inside(const WantedCopy& piece, std::uint64_t begin, std::uint64_t end, FlatReads& out) {
  std::uint64_t row = first_row_behind(piece, begin);
  std::uint64_t stop = rows_before(piece, end);
  std::uint64_t reach = begin;
  const auto start_of = [&piece](std::uint64_t number) { return piece.start + number * piece.file_pitch; };
  const auto address_of = [&piece](std::uint64_t number) { return piece.address + number * piece.pitch; };
  if (row < stop && start_of(row) < begin) {
    reach = std::min(start_of(row) + piece.row_bytes(), end);
    out.add_copy(0, address_of(row) + (begin - start_of(row)), reach - begin);
    ++row;
  }
  const bool cut = row < stop && start_of(stop - 1) + piece.row_bytes() > end;
  if (cut) --stop;
  if (row < stop) {
    const std::uint64_t rows = stop - row;
    const std::uint64_t file_pitch = rows == 1 ? 0 : piece.file_pitch;
    out.add_copy(start_of(row) - begin, address_of(row), piece.row_bytes(), rows, file_pitch,
                 rows == 1 ? 0 : piece.pitch);
    reach = start_of(stop - 1) + piece.row_bytes();
  }
  if (cut) {
    out.add_copy(start_of(stop) - begin, address_of(stop), end - start_of(stop));
    reach = end;
  }
  return reach;
}

}  // namespace

std::uint64_t count_apart(const WantedCopy& copy) noexcept {
  if (copy.rows == 1 || (copy.file_pitch == copy.row_bytes() && copy.pitch == copy.row_bytes())) return 1;
  return copy.file_pitch - copy.row_bytes() > kReadThrough ? copy.rows : 0;
}

void take_apart(const WantedCopy& copy, std::vector<PlainRange>& ranges) {
  if (count_apart(copy) == 1) {
    ranges.push_back({copy.shard, copy.start, copy.start + copy.rows * copy.row_bytes(), copy.address});
    return;
  }
  for (std::uint64_t row = 0; row < copy.rows; ++row) {
    const std::uint64_t by = row * copy.file_pitch;
    ranges.push_back({copy.shard, copy.start + by, copy.end + by, copy.address + row * copy.pitch});
  }
}

RowRuns gather_rows(std::span<const WantedCopy> rows, std::vector<PlainRange>& ranges) {
  std::vector<WantedCopy> pieces(rows.begin(), rows.end());
  pieces.reserve(rows.size() + ranges.size());
  for (const PlainRange& range : ranges) {
    pieces.push_back({range.shard, range.start, range.end, range.address, 1, range.nbytes(), 0});
  }
  std::sort(pieces.begin(), pieces.end());
  ranges.clear();
  RowRuns runs;
  std::size_t begin = 0;  // of the run
  bool spread = false;    // whether it has rows
  std::uint64_t reach = 0;
  const auto put = [&](std::size_t end) {
    if (spread) runs.begins.push_back(runs.pieces.size());
    for (const WantedCopy& piece : std::span(pieces).subspan(begin, end - begin)) {
      if (spread) {
        runs.pieces.push_back(piece);
      } else {
        ranges.push_back({piece.shard, piece.start, piece.end, piece.address});
      }
    }
  };
  for (std::size_t at = 0; at < pieces.size(); ++at) {
    const WantedCopy& piece = pieces[at];
    const bool near = (spread || piece.rows > 1) && (piece.start <= reach || piece.start - reach <= kReadThrough);
    if (at > begin && (piece.shard != pieces[begin].shard || !near || at - begin == kMostTogether)) {
      put(at);
      begin = at;
      spread = false;
      reach = 0;
    }
    spread = spread || piece.rows > 1;
    reach = std::max(reach, piece.reach());
  }
  put(pieces.size());
  return runs;
}

void cut_rows(std::span<const WantedCopy> run, std::uint64_t group, std::uint64_t chunk_bytes, FlatReads& out) {
  std::uint64_t begin = run.front().start;
  std::uint64_t run_end = 0;
  for (const WantedCopy& piece : run) run_end = std::max(run_end, piece.reach());
  std::size_t low = 0;  // the pieces before are done
  while (begin < run_end) {
    std::uint64_t end = std::min(furthest_end(begin, chunk_bytes), run_end);
    while (run[low].reach() <= begin) ++low;
    std::size_t high = low + 1;
    while (high < run.size() && run[high].start < end) ++high;
    if (end < run_end) end = find_cut(run.subspan(low, high - low), begin, end);
    const std::size_t length = out.add_read(run.front().shard, begin, 0, group);
    std::uint64_t read_end = begin;
    for (const WantedCopy& piece : run.subspan(low, high - low)) {
      read_end = std::max(read_end, copy_inside(piece, begin, end, out));
    }
    out.reads[length] = read_end - begin;
    begin = kU64Max;
    for (const WantedCopy& piece : run.subspan(low, std::min(high + 1, run.size()) - low)) {
      begin = std::min(begin, next_byte(piece, end));
    }
  }
}

}  // namespace streamload
