// What a rotation did, as numbers.
#pragma once

#include <cstdint>

namespace streamload {

struct RotationStats {
  std::size_t units = 0;
  std::size_t slots = 0;
  std::uint64_t fills = 0;  // completed
  std::uint64_t bytes_streamed = 0;
  std::uint64_t bytes_from_host = 0;
  std::uint64_t bytes_read = 0;
  std::uint64_t demanded_fills = 0;
  std::uint64_t wasted_fills = 0;
  std::uint64_t passes = 0;
  double stall_seconds = 0;
  double seconds = 0;
};

// Calls visit(name, value) for every number, by the names that `RotationStats` has in Python.
template <class Visit>
void for_each_field(const RotationStats& stats, Visit&& visit) {
  visit("units", stats.units);
  visit("slots", stats.slots);
  visit("fills", stats.fills);
  visit("bytes_streamed", stats.bytes_streamed);
  visit("bytes_from_host", stats.bytes_from_host);
  visit("bytes_read", stats.bytes_read);
  visit("demanded_fills", stats.demanded_fills);
  visit("wasted_fills", stats.wasted_fills);
  visit("passes", stats.passes);
  visit("stall_seconds", stats.stall_seconds);
  visit("seconds", stats.seconds);
}

}  // namespace streamload
