// How many reads to keep in flight: as many as bandwidth × latency asks for, found out by trying.
//
// Pure arithmetic over completions, no clock and no lock of its own. It begins low, so that what is wanted first does
// not share the way with much else, and doubles while that brings more bytes a second. Then it stays there, and tries a
// step up and a step down now and then, so that it follows a drive that changes.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace streamload {

class DepthControl {
 public:
  using Time = std::chrono::nanoseconds;  // since any one moment

  static constexpr std::size_t kFirst = 4;
  static constexpr std::size_t kLeast = 2;  // one arrives while the other is asked for
  explicit DepthControl(std::size_t most, std::size_t least = kLeast) noexcept;

  [[nodiscard]] std::size_t depth() const noexcept { return depth_; }

  // One read has ended. `outstanding`: how many there were, this one and those not started yet included. Only while
  // there are enough to fill the depth does the rate say anything about it.
  void completed(std::size_t nbytes, std::size_t outstanding, Time now) noexcept;

 private:
  enum class Trial : std::uint8_t { kNone, kDouble, kUp, kDown };

  // What a trial must bring, as a multiple of the rate before, and the depth that it tries.
  static double least_gain(Trial trial) noexcept;
  [[nodiscard]] std::size_t tried_by(Trial trial) const noexcept;
  void judge(double rate) noexcept;
  void attempt(Trial trial) noexcept;
  void settle(std::size_t depth) noexcept;

  const std::size_t most_;
  const std::size_t least_;
  std::size_t depth_;     // in use: the one on trial, or held_
  std::size_t held_;      // the last that has proved its worth
  double held_rate_ = 0;  // bytes per nanosecond at held_
  Trial trial_ = Trial::kDouble;
  Trial next_ = Trial::kUp;
  std::size_t quiet_ = 0;  // windows since the last trial ended

  // The window being measured. It begins when those that were in flight at the last change have ended.
  std::size_t settling_;
  std::size_t count_ = 0;
  std::size_t outstanding_ = 0;  // summed over the window
  std::uint64_t nbytes_ = 0;
  Time start_{0};
};

}  // namespace streamload
