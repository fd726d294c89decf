#include "io/depth_control.hpp"

#include <algorithm>
#include <utility>

namespace streamload {
namespace {

constexpr std::size_t kLeast = 2;    // one arrives while the other is asked for
constexpr double kWorthMore = 1.05;  // a step up brings half as much again where latency is the limit
constexpr double kAsGood = 0.98;
constexpr std::size_t kQuietWindows = 8;
// Completions come in bursts (interrupt coalescing, several reaped at once); a window is long against them.
constexpr DepthControl::Time kWindow = std::chrono::milliseconds(4);

constexpr std::size_t above(std::size_t depth) noexcept { return depth + std::max<std::size_t>(depth / 2, 1); }
constexpr std::size_t below(std::size_t depth) noexcept { return std::max(depth - depth / 3, kLeast); }

}  // namespace

DepthControl::DepthControl(std::size_t most, std::size_t first) noexcept
    : most_(std::max<std::size_t>(most, 1)), depth_(std::min(first, most_)), held_(depth_), settling_(depth_) {}

void DepthControl::completed(std::size_t nbytes, std::size_t outstanding, Time now) noexcept {
  if (outstanding <= 1 && depth_ > 1) return settle(depth_);  // idle: the time until the next one means nothing
  if (settling_ > 0) {
    if (--settling_ == 0) start_ = now;
    return;
  }
  ++count_;
  nbytes_ += nbytes;
  outstanding_ += std::min(outstanding, depth_);
  if (count_ < 2 * depth_ || now - start_ < kWindow) return;
  const bool full = 4 * outstanding_ >= 3 * depth_ * count_;
  const double rate = static_cast<double>(nbytes_) / static_cast<double>((now - start_).count());
  count_ = outstanding_ = 0;
  nbytes_ = 0;
  start_ = now;
  if (full) judge(rate);
}

void DepthControl::judge(double rate) noexcept {
  if (trial_ == Trial::kNone) {
    held_rate_ = rate;
    if (++quiet_ < kQuietWindows) return;
    attempt(std::exchange(next_, next_ == Trial::kUp ? Trial::kDown : Trial::kUp));
  } else if (rate > held_rate_ * (trial_ == Trial::kUp ? kWorthMore : kAsGood)) {
    held_ = depth_;
    held_rate_ = std::max(rate, held_rate_);  // steps down that each cost a little must not add up
    attempt(trial_);
  } else {
    trial_ = Trial::kNone;
    settle(held_);
  }
}

void DepthControl::attempt(Trial trial) noexcept {
  const std::size_t depth = trial == Trial::kUp ? std::min(above(held_), most_) : std::min(below(held_), held_);
  quiet_ = 0;
  trial_ = depth == held_ ? Trial::kNone : trial;
  settle(depth);
}

void DepthControl::settle(std::size_t depth) noexcept {
  settling_ = std::max(depth, depth_);
  depth_ = depth;
  count_ = outstanding_ = 0;
  nbytes_ = 0;
}

}  // namespace streamload
