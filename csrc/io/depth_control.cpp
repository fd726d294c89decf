#include "io/depth_control.hpp"

#include <algorithm>
#include <utility>

namespace streamload {
namespace {

// A step up brings half as much again, and doubling twice as much, where latency is the limit.
constexpr double kWorthMore = 1.05;
constexpr double kWorthTwice = 1.15;
constexpr double kAsGood = 0.98;
constexpr std::size_t kQuietWindows = 8;
// Completions come in bursts (interrupt coalescing, several reaped at once); a window is long against them.
constexpr DepthControl::Time kWindow = std::chrono::milliseconds(4);

constexpr std::size_t above(std::size_t depth) noexcept { return depth + std::max<std::size_t>(depth / 2, 1); }
constexpr std::size_t below(std::size_t depth) noexcept { return depth - depth / 3; }

}  // namespace

DepthControl::DepthControl(std::size_t most, std::size_t least) noexcept
    : most_(std::max<std::size_t>(most, 1)),
      least_(std::min(least, most_)),
      depth_(std::min(kFirst, most_)),
      held_(depth_),
      settling_(depth_) {}

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
  } else if (rate > held_rate_ * least_gain(trial_)) {
    held_ = depth_;
    held_rate_ = std::max(rate, held_rate_);  // steps down that each cost a little must not add up
    attempt(trial_);
  } else {
    // It is measured again before a step up finds what is left to gain.
    if (trial_ == Trial::kDouble) quiet_ = kQuietWindows - 1;
    trial_ = Trial::kNone;
    settle(held_);
  }
}

double DepthControl::least_gain(Trial trial) noexcept {
  if (trial == Trial::kDouble) return kWorthTwice;
  return trial == Trial::kUp ? kWorthMore : kAsGood;
}

std::size_t DepthControl::tried_by(Trial trial) const noexcept {
  if (trial == Trial::kDown) return std::max(below(held_), least_);
  return std::min(trial == Trial::kDouble ? 2 * held_ : above(held_), most_);
}

void DepthControl::attempt(Trial trial) noexcept {
  const std::size_t depth = tried_by(trial);
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
