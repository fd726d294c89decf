// How long attempts rest, how many requests there are, and which are slow. Pure.
#include <limits>

#include "check.hpp"
#include "http/http_pace.hpp"
#include "http/retry_policy.hpp"

using namespace streamload;
using namespace std::chrono_literals;

TEST(rests_grow_up_to_a_limit_with_full_jitter) {
  RetryPolicy policy;
  policy.first_backoff_seconds = 0.1;
  policy.most_backoff_seconds = 1;
  CHECK_EQ(rest_before_retry(policy, 0, 0, 0).count(), 0);
  CHECK(rest_before_retry(policy, 0, 0.5, 0) == 50ms);
  CHECK(rest_before_retry(policy, 2, 0.5, 0) == 200ms);
  CHECK(rest_before_retry(policy, 200, 0.5, 0) == 500ms);
  CHECK(rest_before_retry(policy, 0, 0.5, 7) == 7s);
  CHECK(rest_before_retry(policy, 0, 0.5, 3600) == 30s);
}

TEST(odd_seconds_are_bounded) {
  CHECK_EQ(from_seconds(-1).count(), 0);
  CHECK_EQ(from_seconds(std::numeric_limits<double>::quiet_NaN()).count(), 0);
  CHECK(from_seconds(std::numeric_limits<double>::infinity()) > 24h);
}

TEST(a_fixed_number_of_connections_is_kept) {
  HttpPace pace(3);
  for (int i = 0; i < 3; ++i) {
    CHECK(pace.has_room());
    pace.opened();
  }
  CHECK(!pace.has_room());
  for (int i = 0; i < 1000; ++i) pace.completed(1 << 20, 10ms, HttpPace::Clock::time_point(i * 1ms));
  CHECK_EQ(pace.depth(), 3U);
  pace.closed();
  CHECK(pace.has_room());
}

TEST(where_each_connection_is_slow_more_are_opened) {
  HttpPace pace(0);
  CHECK_EQ(pace.depth(), DepthControl::kFirst);
  auto now = HttpPace::Clock::time_point(1s);
  // 100 ms for a request whatever the others do: the more, the faster.
  for (int i = 0; i < 20'000 && pace.depth() < 200; ++i) {
    while (pace.has_room()) pace.opened();
    now += std::chrono::nanoseconds(100ms) / static_cast<int>(pace.depth());
    pace.completed(8 << 20, 100ms, now);
    pace.closed();
  }
  CHECK(pace.depth() >= 200);
}

TEST(a_request_is_slow_at_three_times_what_most_take) {
  HttpPace pace(8);
  CHECK(!pace.slow_after(1 << 20).has_value());  // nothing is known yet
  for (int i = 0; i < 64; ++i) pace.completed(1 << 20, i == 0 ? 10s : 100ms, {});
  const auto slow = pace.slow_after(1 << 20);
  REQUIRE(slow.has_value());
  CHECK(*slow > 299ms);
  CHECK(*slow < 301ms);
  CHECK(*pace.slow_after(2 << 20) > 598ms);
  CHECK(*pace.slow_after(1) >= 50ms);
}

TEST(at_most_one_byte_in_twenty_is_asked_for_twice) {
  HttpPace pace(8);
  CHECK(!pace.may_hedge(1));
  for (int i = 0; i < 100; ++i) pace.completed(1000, 1ms, {});
  CHECK(pace.may_hedge(3000));
  CHECK(pace.may_hedge(2000));
  CHECK(!pace.may_hedge(1));
}
