// How patient reads of remote objects are, and how long they rest between attempts. Pure.
#pragma once

#include <chrono>
#include <cstdint>

namespace streamload {

// Seconds, unless it says otherwise.
struct RetryPolicy {
  double connect_seconds = 10;
  double stall_seconds = 20;  // without a byte, and an attempt is given up
  double retry_seconds = 60;  // since the last byte came, and the read is given up
  double first_backoff_seconds = 0.1;
  double most_backoff_seconds = 5;
  bool hedge = true;  // ask a second time for what is slow
  bool verify_tls = true;
};

inline constexpr double kMostRetryAfterSeconds = 30;  // a server that asks for more is asked before that all the same
inline constexpr int kMostStrange = 3;                // answers that contradict what was asked for, of one read
inline constexpr int kMostRedirects = 8;              // in a row

// How long to rest before the next attempt: exponential backoff with full jitter (Brooker, AWS architecture blog,
// 2015), and as long as the server asked for, within reason. `fruitless`: attempts in a row that brought no byte;
// `random`: uniform in [0, 1).
[[nodiscard]] std::chrono::nanoseconds rest_before_retry(const RetryPolicy& policy, unsigned fruitless, double random,
                                                         double retry_after_seconds) noexcept;

[[nodiscard]] std::chrono::nanoseconds from_seconds(double seconds) noexcept;

}  // namespace streamload
