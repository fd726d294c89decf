// A set of bytes, kept as half-open ranges that neither overlap nor touch.
//
// Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <vector>

namespace streamload {

struct ByteRange {
  std::uint64_t start = 0;
  std::uint64_t end = 0;

  [[nodiscard]] bool operator==(const ByteRange&) const noexcept = default;
};

class ByteRanges {
 public:
  void add(ByteRange range);
  void remove(ByteRange range);

  // Whether every byte of `range` is in the set; so is every byte of an empty one.
  [[nodiscard]] bool covers(ByteRange range) const;
  // Whether any byte of `range` is in the set.
  [[nodiscard]] bool overlaps(ByteRange range) const;
  // What of `range` is not in the set, in order.
  [[nodiscard]] std::vector<ByteRange> missing(ByteRange range) const;
  [[nodiscard]] std::uint64_t total() const noexcept { return total_; }

 private:
  std::map<std::uint64_t, std::uint64_t> end_of_;  // start to end
  std::uint64_t total_ = 0;
};

}  // namespace streamload
