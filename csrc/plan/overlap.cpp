#include "plan/overlap.hpp"

#include <algorithm>
#include <compare>
#include <functional>
#include <iterator>
#include <queue>
#include <set>
#include <utility>
#include <vector>

#include "plan/checked.hpp"

namespace streamload {
namespace {

struct Span {  // from a block's first byte to its last, or a row of it
  std::uint64_t start;
  std::uint64_t end;
  std::size_t block;

  auto operator<=>(const Span&) const = default;
};

// Of memory that is folded to a width: rows [top, bottom), columns [left, right).
struct Rectangle {
  std::uint64_t top;
  std::uint64_t bottom;
  std::uint64_t left;
  std::uint64_t right;
};

struct Column {  // what stands in a row of folded memory
  std::uint64_t left;
  std::uint64_t right;
  std::size_t block;

  auto operator<=>(const Column&) const = default;
};

struct Edge {  // where a rectangle begins or, before others begin in that row, has ended
  std::uint64_t row;
  bool begins;
  Column column;

  auto operator<=>(const Edge&) const = default;
};

// Calls `take` with the rectangles that a block is, three at most.
template <class Take>
void fold(const Block& block, std::uint64_t base, std::uint64_t width, Take take) {
  const std::uint64_t top = (block.address - base) / width;
  const std::uint64_t left = (block.address - base) % width;
  if (block.rows == 1) {
    const std::uint64_t head = std::min(block.nbytes, width - left);
    const std::uint64_t whole = (block.nbytes - head) / width;
    const std::uint64_t tail = (block.nbytes - head) % width;
    take(Rectangle{top, top + 1, left, left + head});
    if (whole != 0) take(Rectangle{top + 1, top + 1 + whole, 0, width});
    if (tail != 0) take(Rectangle{top + 1 + whole, top + 2 + whole, 0, tail});
    return;
  }
  const std::uint64_t right = left + block.nbytes;
  take(Rectangle{top, top + block.rows, left, std::min(right, width)});
  if (right > width) take(Rectangle{top + 1, top + 1 + block.rows, 0, right - width});
}

// Where all rows have one pitch: memory folded to that width, and blocks to rectangles. Sweeps over the rows and holds
// what stands in the present one, by column.
std::optional<Meeting> find_folded(std::span<const Block> blocks, std::span<const Span> spans, std::uint64_t pitch) {
  const std::uint64_t base = spans.front().start;
  std::vector<Edge> edges;
  edges.reserve(2 * spans.size());
  for (const Span& span : spans) {
    fold(blocks[span.block], base, pitch, [&](const Rectangle& shape) {
      const Column column{shape.left, shape.right, span.block};
      edges.push_back({shape.top, true, column});
      edges.push_back({shape.bottom, false, column});
    });
  }
  std::sort(edges.begin(), edges.end());
  std::set<Column> standing;
  for (const Edge& edge : edges) {
    if (!edge.begins) {
      standing.erase(edge.column);
      continue;
    }
    const auto after = standing.lower_bound(edge.column);
    const std::uint64_t row = base + edge.row * pitch;
    if (after != standing.begin()) {
      const Column& before = *std::prev(after);
      if (before.right > edge.column.left) return Meeting{row + edge.column.left, before.block, edge.column.block};
    }
    if (after != standing.end() && after->left < edge.column.right) {
      return Meeting{row + after->left, edge.column.block, after->block};
    }
    standing.insert(after, edge.column);
  }
  return std::nullopt;
}

// Row by row in the order of memory, whatever the pitches: holds the next row of each block, and of rows that lie
// before the next one of any other only the last.
std::optional<Meeting> find_in_turn(std::span<const Block> blocks, std::span<const Span> spans) {
  const auto row_of = [&blocks](std::size_t index, std::uint64_t row) {
    const std::uint64_t start = blocks[index].address + row * blocks[index].pitch;
    return std::pair(Span{start, start + blocks[index].nbytes, index}, row);
  };
  using Row = std::pair<Span, std::uint64_t>;
  std::priority_queue<Row, std::vector<Row>, std::greater<>> waiting;
  for (const Span& span : spans) waiting.push(row_of(span.block, 0));
  std::uint64_t reach = 0;
  std::size_t holder = 0;
  while (!waiting.empty()) {
    const auto [span, row] = waiting.top();
    waiting.pop();
    if (span.start < reach) return Meeting{span.start, holder, span.block};
    const Block& block = blocks[span.block];
    std::uint64_t last = row;  // of those before another's
    if (block.rows > 1) {
      const std::uint64_t next = waiting.empty() ? kU64Max : waiting.top().first.start;
      if (next > span.start) last += std::min((next - 1 - span.start) / block.pitch, block.rows - 1 - row);
    }
    reach = row_of(span.block, last).first.end;
    holder = span.block;
    if (last + 1 < block.rows) waiting.push(row_of(span.block, last + 1));
  }
  return std::nullopt;
}

// Among blocks whose spans hang together.
std::optional<Meeting> find_among(std::span<const Block> blocks, std::span<const Span> spans) {
  std::optional<std::uint64_t> pitch;
  bool one_pitch = true;
  for (const Span& span : spans) {
    const Block& block = blocks[span.block];
    if (block.rows == 1) continue;
    one_pitch = one_pitch && pitch.value_or(block.pitch) == block.pitch;
    pitch = block.pitch;
  }
  return pitch && one_pitch ? find_folded(blocks, spans, *pitch) : find_in_turn(blocks, spans);
}

}  // namespace

bool is_sound(const Block& block) noexcept {
  if (block.rows == 0 || block.nbytes > kU64Max - block.address) return false;
  if (block.rows == 1) return true;
  return block.pitch != 0 && block.pitch >= block.nbytes &&
         last_row_fits(block.address + block.nbytes, block.rows, block.pitch);
}

std::optional<Meeting> find_overlap(std::span<const Block> blocks) {
  std::vector<Span> spans;
  spans.reserve(blocks.size());
  for (const Block& block : blocks) {
    const std::uint64_t rest = block.rows == 1 ? 0 : (block.rows - 1) * block.pitch;
    spans.push_back({block.address, block.address + block.nbytes + rest, spans.size()});
  }
  if (!std::is_sorted(spans.begin(), spans.end())) std::sort(spans.begin(), spans.end());
  std::uint64_t reach = 0;
  std::size_t begin = 0;  // of spans that hang together
  for (std::size_t at = 0; at <= spans.size(); ++at) {
    if (at == spans.size() || spans[at].start >= reach) {
      if (at > begin + 1) {
        const auto met = find_among(blocks, std::span(spans).subspan(begin, at - begin));
        if (met) return met;
      }
      begin = at;
    }
    if (at < spans.size()) reach = std::max(reach, spans[at].end);
  }
  return std::nullopt;
}

}  // namespace streamload
