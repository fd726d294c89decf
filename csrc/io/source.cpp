#include "io/source.hpp"

#include <latch>
#include <memory>
#include <utility>

namespace streamload {

FetchCounts& FetchCounts::operator+=(const FetchCounts& more) noexcept {
  requests += more.requests;
  retries += more.retries;
  resumes += more.resumes;
  hedges += more.hedges;
  throttled += more.throttled;
  renewals += more.renewals;
  tier_bytes += more.tier_bytes;
  tier_written_bytes += more.tier_written_bytes;
  cpu_seconds += more.cpu_seconds;
  return *this;
}

Status fetch_and_wait(Source& source, std::uint64_t offset, HostSpan target) noexcept {
  const auto arrived = std::make_shared<std::latch>(1);  // shared: who counts down may look at it a little longer
  Status outcome;
  source.fetch(offset, {target}, {}, [&outcome, arrived](Status status, const FetchCounts&) {
    outcome = std::move(status);
    arrived->count_down();
  });
  arrived->wait();
  return outcome;
}

}  // namespace streamload
