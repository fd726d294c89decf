// Units in slots: every value that is read under acquire is right, for every number of units and slots.
#include "rotation_fixture.hpp"

using namespace streamload;

namespace {

constexpr std::uint32_t kMostUnits = 40;
constexpr std::uint32_t kMostSlots = 40;
constexpr std::size_t kPasses = 3;

enum class Timing { kSlowLink, kSlowCompute, kRandom };

std::vector<std::uint32_t> hostile(std::uint32_t units, std::uint32_t slots, std::minstd_rand& random) {
  std::vector<std::uint32_t> slot_of(units);
  for (std::uint32_t& slot : slot_of) slot = static_cast<std::uint32_t>(random() % slots);
  return slot_of;
}

HostDeviceOptions options_for(Timing timing) {
  HostDeviceOptions options;
  options.staged = true;
  options.poison = true;
  if (timing == Timing::kSlowLink) options.link_bytes_per_second = 4e8;
  return options;
}

// More slots than units are as good as one for each.
template <class Visit>
void for_all_pairs(Visit&& visit) {
  for (std::uint32_t units = 1; units <= kMostUnits; ++units) {
    for (std::uint32_t slots = 1; slots <= kMostSlots; ++slots) visit(units, slots);
  }
}

template <class Consumer>
void pass_through(const Turn& turn, Consumer& consumer, std::uint32_t units, std::size_t passes = kPasses) {
  for (std::size_t pass = 0; pass < passes; ++pass) {
    turn.rotation->begin_pass();
    for (std::uint32_t unit = 0; unit < units; ++unit) CHECK_EQ(consumer.use(unit).text, "");
  }
  consumer.finish();
  const RotationStats stats = turn.rotation->stats();
  CHECK_EQ(stats.passes, passes);
  CHECK(stats.fills >= units);
}

void run_all_pairs_on_host(Timing timing, bool spread_out) {
  const auto device = std::make_shared<HostDevice>(options_for(timing));
  {
    const auto pool = readers();
    std::minstd_rand random(7);
    for_all_pairs([&](std::uint32_t units, std::uint32_t slots) {
      if (!spread_out && (units + slots) % 5 != 0) return;
      const auto slot_of = spread_out ? spread(units, slots) : hostile(units, slots, random);
      const Turn turn(device, pool, {slots, slot_of, straight(units), {}, 1 + units});
      REQUIRE(turn.started.ok());
      HostConsumer consumer{turn};
      if (timing == Timing::kSlowCompute) consumer.compute = [&] { pause(random, 30); };
      if (timing == Timing::kRandom) {
        consumer.compute = [&] {
          if (random() % 8 == 0) pause(random, 100);
        };
      }
      pass_through(turn, consumer, units);
      CHECK_EQ(turn.rotation->stats().demanded_fills, 0U);
    });
  }
  CHECK_EQ(device->live_objects(), 0U);
}

}  // namespace

TEST(all_pairs_are_right_over_a_slow_link) { run_all_pairs_on_host(Timing::kSlowLink, true); }
TEST(all_pairs_are_right_with_slow_compute) { run_all_pairs_on_host(Timing::kSlowCompute, true); }
TEST(all_pairs_are_right_at_random) { run_all_pairs_on_host(Timing::kRandom, true); }
TEST(neighbours_in_one_slot_are_right_too) { run_all_pairs_on_host(Timing::kRandom, false); }
