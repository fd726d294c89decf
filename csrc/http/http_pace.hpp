// How many ranges to ask for at once, which of them are slow, and how many may be asked for twice.
//
// Shared by the loops of one client. Thread-safe; the two questions that a pool asks under its lock take none.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>

#include "io/depth_control.hpp"

namespace streamload {

class HttpPace {
 public:
  using Clock = std::chrono::steady_clock;

  // `connections`: how many; 0 for as many as bandwidth × latency asks for.
  explicit HttpPace(std::size_t connections) noexcept;

  [[nodiscard]] std::size_t depth() const noexcept { return depth_; }
  [[nodiscard]] bool has_room() const noexcept { return outstanding_ < depth_; }
  // A range was handed in, and is done with.
  void opened() noexcept { ++outstanding_; }
  void closed() noexcept { --outstanding_; }

  // A range came in with one request, which took so long.
  void completed(std::size_t nbytes, Clock::duration took, Clock::time_point now) noexcept;
  // After how long a request for so many bytes is slow; nothing before enough of them are known.
  [[nodiscard]] std::optional<Clock::duration> slow_after(std::size_t nbytes) const noexcept;
  // Whether so many bytes may be asked for a second time. Then they are counted.
  [[nodiscard]] bool may_hedge(std::size_t nbytes) noexcept;

 private:
  static constexpr std::size_t kSamples = 64;

  const bool adapts_;
  std::atomic<std::size_t> depth_;
  std::atomic<std::size_t> outstanding_{0};

  mutable std::mutex mutex_;  // guards everything below
  DepthControl control_;
  std::array<double, kSamples> costs_{};  // the latest requests' seconds per byte
  std::size_t sampled_ = 0;
  double slow_cost_ = 0;  // of 95 % of them
  std::uint64_t completed_bytes_ = 0;
  std::uint64_t hedged_bytes_ = 0;
};

}  // namespace streamload
