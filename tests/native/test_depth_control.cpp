// The depth against model drives: pure arithmetic in simulated time.
#include <algorithm>
#include <deque>
#include <functional>

#include "check.hpp"
#include "io/depth_control.hpp"

using namespace streamload;

namespace {

constexpr std::size_t kRead = 4 << 20;

// A drive answers each read after `latency` seconds, and moves `bandwidth` bytes a second between all of them.
struct Drive {
  double bandwidth;
  double latency;
  double now = 0;
  double busy_until = 0;
  std::size_t deepest = 0;
  std::deque<double> in_flight{};  // when each will end

  // How many reads fill it.
  [[nodiscard]] double needed() const { return bandwidth * latency / kRead + 1; }

  // Keeps `wanted()` reads in flight until `reads` have ended.
  void run(DepthControl& control, std::size_t reads, const std::function<std::size_t()>& wanted) {
    for (std::size_t i = 0; i < reads; ++i) {
      while (in_flight.size() < std::max<std::size_t>(wanted(), 1)) {
        busy_until = std::max(busy_until, now + latency) + kRead / bandwidth;
        in_flight.push_back(busy_until);
      }
      deepest = std::max(deepest, in_flight.size());
      now = in_flight.front();
      control.completed(kRead, in_flight.size(), DepthControl::Time(static_cast<std::int64_t>(now * 1e9)));
      in_flight.pop_front();
    }
  }
  void run(DepthControl& control, std::size_t reads) {
    run(control, reads, [&] { return control.depth(); });
  }

  // Whether the depth moves within a tenth of all the bytes that the drive can, trials of other depths included.
  bool is_filled_by(DepthControl& control) {
    const double start = now;
    run(control, 2000);
    return 2000 * kRead / (now - start) > 0.9 * bandwidth;
  }
};

}  // namespace

TEST(it_starts_at_four_and_keeps_to_the_most) {
  CHECK_EQ(DepthControl(64).depth(), 4U);
  CHECK_EQ(DepthControl(3).depth(), 3U);
  CHECK_EQ(DepthControl(0).depth(), 1U);
  for (const std::size_t most : {1U, 2U, 7U, 10U}) {
    DepthControl control(most);
    Drive drive{100e9, 0.01};  // would take 238
    drive.run(control, 4000);
    CHECK_EQ(drive.deepest, most);
    CHECK(control.depth() <= most);  // a step down may be on trial
  }
}

TEST(it_finds_the_depth_that_fills_the_drive_and_goes_little_further) {
  // A fast drive, an array of them, a slow network volume, a cloud disk, a hard drive.
  for (const Drive& model :
       {Drive{7e9, 1e-4}, Drive{50e9, 3e-4}, Drive{1e9, 0.05}, Drive{3.5e9, 4e-3}, Drive{2e8, 0.01}}) {
    DepthControl control(256);
    Drive drive = model;
    drive.run(control, 20000);
    const double needed = model.needed();
    CHECK(static_cast<double>(drive.deepest) <= std::max(needed, 4.0) * 2 * 2);
    CHECK(drive.is_filled_by(control));
    CHECK(static_cast<double>(control.depth()) <= std::max(needed, 2.0) * 1.5 * 1.5 + 1);
  }
}

TEST(it_doubles_within_three_rounds_until_the_drive_is_full) {
  DepthControl control(256);
  Drive drive{50e9, 5e-3};  // takes 61
  drive.run(control, 3 * (4 + 8 + 16 + 32));
  CHECK_EQ(control.depth(), 64U);
}

TEST(where_a_few_fill_the_drive_it_is_soon_back_at_them) {
  DepthControl control(256);
  Drive drive{1e8, 0.02};  // takes 1.5
  drive.run(control, 3 * (4 + 8) + (8 + 2 * 4) + 3 * 6);
  CHECK_EQ(drive.deepest, 8U);
  CHECK_EQ(control.depth(), 4U);
}

TEST(it_comes_down_when_the_drive_answers_faster_and_goes_up_again) {
  DepthControl control(128);
  Drive drive{5e9, 0.02};
  drive.run(control, 5000);
  CHECK(drive.is_filled_by(control));
  drive.latency = 1e-4;
  drive.run(control, 20000);
  CHECK(control.depth() <= 4);
  drive.latency = 0.02;
  drive.run(control, 20000);
  CHECK(drive.is_filled_by(control));
}

TEST(it_learns_nothing_from_a_reader_that_asks_for_less) {
  DepthControl control(64);
  Drive drive{5e9, 0.02};
  drive.run(control, 5000, [] { return 2; });
  CHECK_EQ(control.depth(), 4U);
}

TEST(idle_time_does_not_count_as_a_slow_drive) {
  DepthControl control(64);
  Drive drive{5e9, 0.01};
  drive.run(control, 4000);
  const std::size_t depth = control.depth();
  for (int i = 0; i < 20; ++i) {
    // Drains, rests for an hour, goes on.
    while (!drive.in_flight.empty()) drive.run(control, 1, [] { return 0; });
    drive.now += 3600;
    drive.run(control, 2 * depth);
  }
  CHECK_EQ(control.depth(), depth);
}
