#include "http/http_pace.hpp"

#include <algorithm>

namespace streamload {
namespace {

constexpr std::size_t kMostConnections = 256;  // 100 Gbit/s at 50 MB/s each
constexpr std::size_t kLeastSamples = 16;
constexpr std::size_t kLeastBytes = 256 << 10;  // a smaller request takes as long: it is latency that counts
constexpr double kSlow = 3;                     // times what 95 % of the requests take
constexpr auto kNeverSlow = std::chrono::milliseconds(50);
constexpr std::uint64_t kHedgeOneIn = 20;  // bytes

double counted(std::size_t nbytes) noexcept { return static_cast<double>(std::max(nbytes, kLeastBytes)); }

}  // namespace

HttpPace::HttpPace(std::size_t connections) noexcept
    : adapts_(connections == 0),
      depth_(connections == 0 ? DepthControl::kFirst : connections),
      control_(kMostConnections, DepthControl::kFirst) {}

void HttpPace::completed(std::size_t nbytes, Clock::duration took, Clock::time_point now) noexcept {
  const std::lock_guard lock(mutex_);
  completed_bytes_ += nbytes;
  costs_[sampled_++ % kSamples] = std::chrono::duration<double>(took).count() / counted(nbytes);
  if (sampled_ >= kLeastSamples && sampled_ % kLeastSamples == 0) {
    std::array<double, kSamples> sorted = costs_;
    const std::size_t count = std::min(sampled_, kSamples);
    const std::size_t most = count - 1 - count / 20;
    std::nth_element(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(most),
                     sorted.begin() + static_cast<std::ptrdiff_t>(count));
    slow_cost_ = kSlow * sorted[most];
  }
  if (!adapts_) return;
  control_.completed(nbytes, outstanding_, now.time_since_epoch());
  depth_ = control_.depth();
}

std::optional<HttpPace::Clock::duration> HttpPace::slow_after(std::size_t nbytes) const noexcept {
  const std::lock_guard lock(mutex_);
  if (slow_cost_ == 0) return {};
  const std::chrono::duration<double> seconds(slow_cost_ * counted(nbytes));
  return std::max<Clock::duration>(std::chrono::duration_cast<Clock::duration>(seconds), kNeverSlow);
}

bool HttpPace::may_hedge(std::size_t nbytes) noexcept {
  const std::lock_guard lock(mutex_);
  if ((hedged_bytes_ + nbytes) * kHedgeOneIn > completed_bytes_) return false;
  hedged_bytes_ += nbytes;
  return true;
}

}  // namespace streamload
