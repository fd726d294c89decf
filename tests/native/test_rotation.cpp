// Units in slots: every value that is read under acquire is right, for every number of units and slots, every order of
// use and every source.
#include "rotation_fixture.hpp"

using namespace streamload;

namespace {

// Without debugging too, since its delays and its poison are all that it may change.
std::uint64_t debug_seed(std::uint32_t units) { return units % 4 == 0 ? 0 : units; }

HostDeviceOptions staged(double link_bytes_per_second = 0) {
  HostDeviceOptions options;
  options.staged = true;
  options.poison = true;
  options.link_bytes_per_second = link_bytes_per_second;
  return options;
}

Turn::Terms terms_of(std::uint32_t units, std::uint32_t slots, std::vector<std::uint32_t> slot_of) {
  Turn::Terms terms;
  terms.slots = slots;
  terms.slot_of = std::move(slot_of);
  terms.order = straight(units);
  terms.debug_seed = debug_seed(units);
  return terms;
}

// Each pass in another timing: as fast as the link lets it, slower than the link, at random.
void pass_thrice(const Turn& turn, std::uint32_t first_timing, std::minstd_rand& random) {
  HostConsumer consumer{turn};
  const auto units = turn.rotation->unit_count();
  for (std::uint32_t pass = 0; pass < 3; ++pass) {
    turn.rotation->begin_pass();
    const std::uint32_t timing = (first_timing + pass) % 3;
    consumer.compute = [&random, timing] {
      if (timing == 1 || (timing == 2 && random() % 8 == 0)) pause(random, 30);
    };
    for (std::uint32_t unit = 0; unit < units; ++unit) CHECK_EQ(consumer.use(unit).text, "");
  }
  consumer.finish();
}

void run_on_each_host_device(const std::function<void(const std::shared_ptr<Device>&)>& body) {
  for (const HostDeviceOptions& options : {HostDeviceOptions{}, staged(), poisoned()}) {
    const auto device = std::make_shared<HostDevice>(options);
    body(device);
    CHECK_EQ(device->live_objects(), 0U);
  }
}

}  // namespace

// More slots than units are one for each.
TEST(all_pairs_of_units_and_slots_are_right_in_every_timing) {
  const auto device = std::make_shared<HostDevice>(staged(4e8));
  {
    const auto pool = readers();
    std::minstd_rand random(7);
    for (std::uint32_t units = 1; units <= kMostUnits; units += kPairStep) {
      for (std::uint32_t slots = 1; slots <= std::min(kMostSlots, units + 1); slots += kPairStep) {
        const Turn turn(device, pool, terms_of(units, slots, spread(units, slots)));
        REQUIRE(turn.started.ok());
        pass_thrice(turn, units + slots, random);
        const RotationStats stats = turn.rotation->stats();
        CHECK_EQ(stats.demanded_fills, 0U);
        CHECK_EQ(stats.wasted_fills, 0U);
        if (slots >= units) CHECK_EQ(stats.fills, units);  // what fits is filled once
      }
    }
  }
  CHECK_EQ(device->live_objects(), 0U);
}

TEST(any_assignment_of_slots_is_right) {
  run_on_each_host_device([](const auto& device) {
    const auto pool = readers();
    std::minstd_rand random(3);
    for (std::uint32_t round = 0; round < 60; ++round) {
      const auto units = 1 + static_cast<std::uint32_t>(random() % 12);
      const auto slots = 1 + static_cast<std::uint32_t>(random() % 5);
      std::vector<std::uint32_t> slot_of(units);
      for (std::uint32_t& slot : slot_of) slot = static_cast<std::uint32_t>(random() % slots);
      const Turn turn(device, pool, terms_of(units, slots, slot_of));
      REQUIRE(turn.started.ok());
      pass_thrice(turn, round, random);
    }
  });
}

// Skipped, repeated, reordered and conditional units, in a pass whose order says nothing of it.
TEST(units_used_in_any_order_are_right) {
  run_on_each_host_device([](const auto& device) {
    const auto pool = readers();
    std::minstd_rand random(5);
    for (std::uint32_t round = 0; round < 40; ++round) {
      const auto units = 2 + static_cast<std::uint32_t>(random() % 10);
      const auto slots = 1 + static_cast<std::uint32_t>(random() % 4);
      Turn::Terms terms = terms_of(units, slots, spread(units, slots));
      terms.order.clear();  // some stand twice, some nowhere, perhaps none does
      const std::size_t places = random() % (units + 3);
      while (terms.order.size() < places) terms.order.push_back(static_cast<std::uint32_t>(random() % units));
      const Turn turn(device, pool, std::move(terms));
      REQUIRE(turn.started.ok());
      HostConsumer consumer{turn};
      for (int use = 0; use < 40; ++use) {
        CHECK_EQ(consumer.use(static_cast<std::uint32_t>(random() % units)).text, "");
        if (random() % 8 == 0) turn.rotation->begin_pass();
        if (random() % 8 == 0) {
          std::vector<std::uint32_t> order = straight(units);
          std::shuffle(order.begin(), order.end(), random);
          order.resize(random() % (units + 1));
          CHECK(turn.rotation->set_order(std::move(order)).ok());
        }
      }
      consumer.finish();
    }
  });
}

TEST(an_order_that_is_right_costs_no_demand_and_one_that_is_wrong_does) {
  const auto device = std::make_shared<HostDevice>(staged());
  Turn::Terms terms = terms_of(6, 2, spread(6, 2));
  terms.order = {5, 4, 3, 2, 1, 0};
  const Turn turn(device, readers(), std::move(terms));
  HostConsumer consumer{turn};
  for (const std::uint32_t unit : {0U, 1U, 2U}) CHECK(consumer.use(unit).ok());
  CHECK(turn.rotation->stats().demanded_fills >= 2);
  CHECK(turn.rotation->set_order(straight(6)).ok());
  const auto before = turn.rotation->stats().demanded_fills;
  for (std::uint32_t use = 3; use < 30; ++use) CHECK(consumer.use(use % 6).ok());
  consumer.finish();
  CHECK_EQ(turn.rotation->stats().demanded_fills, before);
}

TEST(a_unit_may_be_acquired_again_by_its_holder_and_no_other_one) {
  const auto device = std::make_shared<HostDevice>(staged());
  const Turn turn(device, readers(), terms_of(4, 2, spread(4, 2)));
  CHECK(turn.acquire(1).ok());
  CHECK(turn.acquire(1).ok());
  const Status nested = turn.acquire(2);
  CHECK(nested.code == Code::kMisused);
  CHECK(nested.text.find("nested") != std::string::npos);
  CHECK(turn.release(2).code == Code::kMisused);
  CHECK(turn.release(1).ok());
  CHECK(turn.acquire(2).code == Code::kMisused);  // held once more
  CHECK(turn.release(1).ok());
  CHECK(turn.release(1).code == Code::kMisused);
  CHECK(turn.acquire(2).ok());
  CHECK(turn.release(2).ok());
  CHECK(turn.acquire(9).code == Code::kInvalid);
}

TEST(bytes_streamed_are_what_the_passes_need) {
  const auto device = std::make_shared<HostDevice>(staged());
  const Turn turn(device, readers(), terms_of(6, 2, spread(6, 2)));
  HostConsumer consumer{turn};
  for (std::uint32_t use = 0; use < 24; ++use) CHECK(consumer.use(use % 6).ok());
  // Units 0 and 1 of the pass to come fill both slots; while one is held, nothing else can be filled.
  CHECK(turn.acquire(0).ok());
  CHECK(turn.release(0).ok());
  CHECK(turn.acquire(1).ok());
  CHECK(turn.release(1).ok());
  const RotationStats stats = turn.rotation->stats();
  CHECK(stats.fills >= 26);  // those two, and perhaps the next two by now
  CHECK(stats.fills <= 28);
  CHECK_EQ(stats.bytes_streamed, stats.fills * kUnitBytes);
  CHECK_EQ(stats.bytes_read, stats.bytes_streamed);
  CHECK_EQ(stats.bytes_from_host, 0U);
}

TEST(a_setup_that_contradicts_itself_is_refused) {
  const auto device = std::make_shared<HostDevice>(staged());
  const auto refused = [&](const std::function<void(Turn::Terms&)>& spoil) {
    Turn::Terms terms = terms_of(4, 2, spread(4, 2));
    spoil(terms);
    const Turn turn(device, readers(), std::move(terms));
    return turn.started.code == Code::kInvalid && turn.rotation == nullptr;
  };
  CHECK(!refused([](Turn::Terms&) {}));
  CHECK(refused([](Turn::Terms& terms) { terms.order.push_back(4); }));
  std::shared_ptr<Rotation> rotation;
  Rotation::Setup setup;
  setup.units.push_back(unit_plan(0, 4096));
  setup.slot_of = {0};
  setup.slots = {{4096, kUnitBytes - 1}};  // a byte too small
  setup.sources = {unit_source()};
  CHECK(Rotation::start(device, readers(), setup, rotation).code == Code::kInvalid);
  setup.slots = {{4096, kUnitBytes}, {8191, kUnitBytes}};  // overlap
  CHECK(Rotation::start(device, readers(), setup, rotation).code == Code::kInvalid);
  setup.slots = {{4096, kUnitBytes}};
  setup.slot_of = {1};
  CHECK(Rotation::start(device, readers(), setup, rotation).code == Code::kInvalid);
  setup.slot_of = {0, 0};
  CHECK(Rotation::start(device, readers(), setup, rotation).code == Code::kInvalid);
  setup.slot_of = {0};
  setup.units[0].group_count = 2;
  CHECK(Rotation::start(device, readers(), setup, rotation).code == Code::kInvalid);
}

TEST(units_of_nothing_but_empty_tensors_need_no_read) {
  const auto device = std::make_shared<HostDevice>(staged());
  {
    DeviceSpan memory;
    REQUIRE(device->allocate(kUnitBytes, memory).ok());
    Rotation::Setup setup;
    setup.units = {unit_plan(0, memory.address), Plan{}};
    setup.units[1].group_count = 1;
    setup.slot_of = {0, 0};
    setup.slots = {memory};
    setup.order = {0, 1};
    setup.sources = {unit_source()};
    std::shared_ptr<Rotation> rotation;
    REQUIRE(Rotation::start(device, readers(), std::move(setup), rotation).ok());
    for (std::uint32_t use = 0; use < 6; ++use) {
      Rotation::Want want;
      bool ready = false;
      REQUIRE(rotation->want(use % 2, want).ok());
      CHECK(rotation->acquire(want, {}, kPatience, ready).ok());
      CHECK(ready);
      CHECK(rotation->release(use % 2, {}).ok());
    }
    rotation.reset();
    device->deallocate(memory);
  }
  CHECK_EQ(device->live_objects(), 0U);
}
