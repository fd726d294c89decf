#include "http/retry_policy.hpp"

#include <algorithm>
#include <cmath>

namespace streamload {

std::chrono::nanoseconds from_seconds(double seconds) noexcept {
  constexpr double kMost = 86400.0 * 365;  // where infinity and its kin end
  const double bounded = seconds > 0 ? std::min(seconds, kMost) : 0.0;
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::duration<double>(bounded));
}

std::chrono::nanoseconds rest_before_retry(const RetryPolicy& policy, unsigned fruitless, double random,
                                           double retry_after_seconds) noexcept {
  constexpr unsigned kMostDoublings = 32;
  const double grown = std::ldexp(policy.first_backoff_seconds, static_cast<int>(std::min(fruitless, kMostDoublings)));
  const double jittered = random * std::min(grown, policy.most_backoff_seconds);
  return from_seconds(std::max(jittered, std::min(retry_after_seconds, kMostRetryAfterSeconds)));
}

}  // namespace streamload
