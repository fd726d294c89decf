// Blocks in short slices, so that something else (Python's signal handlers) gets a turn between them.
#pragma once

#include <algorithm>
#include <chrono>
#include <optional>

namespace streamload {

// How long a signal may have to wait for its handler: a tenth of the 200 ms in which an interrupted load returns.
inline constexpr auto kSlice = std::chrono::milliseconds(20);

// Calls `wait(patience, ready)` until it sets `ready` or `timeout` seconds are over, and `between()` after each slice
// that was in vain. The first call has no patience: what is ready already costs no turn. Both may throw.
template <class Wait, class Between>
bool wait_in_slices(std::optional<double> timeout, Wait&& wait, Between&& between) {
  using Clock = std::chrono::steady_clock;
  constexpr double kForever = 1e8;  // seconds; three years, and far from the clock's own end
  const std::chrono::duration<double> most(std::min(timeout.value_or(kForever), kForever));
  const auto give_up = Clock::now() + std::chrono::duration_cast<Clock::duration>(most);
  bool ready = false;
  wait(Clock::duration::zero(), ready);
  while (!ready && Clock::now() < give_up) {
    wait(std::min<Clock::duration>(kSlice, give_up - Clock::now()), ready);
    between();
  }
  return ready;
}

}  // namespace streamload
