// What a load did, as numbers, and where the time of each of its reads went.
#pragma once

#include <array>
#include <cstdint>

#include "io/source.hpp"

namespace streamload {

// Where the time of one read went, in seconds since the ticket was made.
struct ChunkTrace {
  std::uint32_t group = 0;
  std::uint32_t source = 0;
  std::uint32_t thread = 0;
  Choice choice;
  bool in_place = false;
  std::uint64_t offset = 0;
  std::size_t nbytes = 0;
  double read_start = 0;
  double read_end = 0;
  double copy_issued = 0;
  double copy_done = 0;
  bool landed = false;
};

struct TicketStats {
  std::uint64_t bytes_total = 0;
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_resident = 0;  // landed on the device
  std::array<std::uint64_t, kRoutes> bytes_by_route{};
  std::uint64_t in_place_bytes = 0;
  std::uint64_t cached_bytes = 0;
  std::uint64_t uncached_bytes = 0;
  std::uint64_t probed_bytes = 0;
  std::uint64_t cached_direct_bytes = 0;
  std::uint64_t uncached_buffered_bytes = 0;
  std::uint64_t uring_bytes = 0;
  FetchCounts fetches;  // summed; their processor time is counted below
  std::uint32_t groups = 0;
  std::uint32_t groups_resident = 0;
  std::size_t staging_bytes = 0;   // of the ring, now; 0 once closed
  std::size_t pinned_bytes = 0;    // of those, page-locked
  double seconds = 0;              // until all was resident or failed; until now while it runs
  double first_byte_seconds = 0;   // until the first copy had landed; 0 before
  double first_group_seconds = 0;  // until the first group was resident; 0 before
  double stall_seconds = 0;        // waiters' time on the host, summed over threads
  double read_cpu_seconds = 0;     // processor time of the reading threads
};

// Calls visit(name, value) for every number, by the names that `LoadStats` has in Python.
template <class Visit>
void for_each_field(const TicketStats& stats, Visit&& visit) {
  const auto route = [&](Route one) { return stats.bytes_by_route[static_cast<std::size_t>(one)]; };
  visit("bytes_total", stats.bytes_total);
  visit("bytes_read", stats.bytes_read);
  visit("bytes_resident", stats.bytes_resident);
  visit("buffered_bytes", route(Route::kBuffered));
  visit("direct_bytes", route(Route::kDirect));
  visit("callback_bytes", route(Route::kCallback));
  visit("remote_bytes", route(Route::kRemote));
  visit("in_place_bytes", stats.in_place_bytes);
  visit("cached_bytes", stats.cached_bytes);
  visit("uncached_bytes", stats.uncached_bytes);
  visit("probed_bytes", stats.probed_bytes);
  visit("cached_direct_bytes", stats.cached_direct_bytes);
  visit("uncached_buffered_bytes", stats.uncached_buffered_bytes);
  visit("uring_bytes", stats.uring_bytes);
  visit("requests", stats.fetches.requests);
  visit("retries", stats.fetches.retries);
  visit("resumes", stats.fetches.resumes);
  visit("hedges", stats.fetches.hedges);
  visit("throttled", stats.fetches.throttled);
  visit("renewals", stats.fetches.renewals);
  visit("tier_bytes", stats.fetches.tier_bytes);
  visit("tier_written_bytes", stats.fetches.tier_written_bytes);
  visit("groups", stats.groups);
  visit("groups_resident", stats.groups_resident);
  visit("staging_bytes", stats.staging_bytes);
  visit("pinned_bytes", stats.pinned_bytes);
  visit("seconds", stats.seconds);
  visit("first_byte_seconds", stats.first_byte_seconds);
  visit("first_group_seconds", stats.first_group_seconds);
  visit("stall_seconds", stats.stall_seconds);
  visit("read_cpu_seconds", stats.read_cpu_seconds);
}

}  // namespace streamload
