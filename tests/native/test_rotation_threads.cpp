// Rotations used by several threads, changed and ended at any point.
#include <latch>

#include "rotation_fixture.hpp"

using namespace streamload;

namespace {

Turn::Terms terms_of(std::uint32_t units, std::uint32_t slots, std::uint64_t debug_seed = 3) {
  Turn::Terms terms;
  terms.slots = slots;
  terms.slot_of = spread(units, slots);
  terms.order = straight(units);
  terms.debug_seed = debug_seed;
  return terms;
}

bool ended(const Status& status) { return status.code == Code::kCancelled || status.code == Code::kClosed; }

}  // namespace

TEST(two_threads_in_two_passes_are_both_right) {
  for (const HostDeviceOptions& options : {HostDeviceOptions{}, poisoned()}) {
    for (const std::uint32_t slots : {1U, 2U, 3U}) {
      const auto device = std::make_shared<HostDevice>(options);
      const Turn turn(device, readers(), terms_of(7, slots));
      const auto pass = [&](std::uint32_t seed) {
        std::minstd_rand random(seed);
        HostConsumer consumer{turn};
        consumer.compute = [&] { pause(random, 40 * seed); };  // one is slower than the other
        for (std::uint32_t use = 0; use < 42; ++use) CHECK_EQ(consumer.use(use % 7).text, "");
        consumer.finish();
      };
      std::jthread other([&] { pass(5); });
      pass(1);
    }
  }
}

TEST(two_threads_in_two_passes_are_both_right_on_their_own_streams) {
  for (const std::uint32_t slots : {1U, 2U, 3U}) {
    on_standin([&] {
      const auto device = cuda();
      const Turn turn(device, readers(), terms_of(7, slots));
      StreamConsumer first(turn, 42);
      DeviceSpan results;
      REQUIRE(device->allocate(42 * kUnitBytes, results).ok());
      Stream stream;
      REQUIRE(Stream::make(device, stream).ok());
      std::jthread other([&] {
        for (std::uint32_t use = 0; use < 42; ++use) {
          const std::uint32_t unit = (3 * use) % 7;
          CHECK_EQ(turn.acquire(unit, stream.view()).text, "");
          CHECK(
              device->copy(results.subspan(use * kUnitBytes, kUnitBytes), {turn.bytes(unit), kUnitBytes}, stream.view())
                  .ok());
          CHECK_EQ(turn.release(unit, stream.view()).text, "");
        }
      });
      for (std::uint32_t use = 0; use < 42; ++use) CHECK_EQ(first.use(use % 7).text, "");
      other.join();
      first.finish();
      stream.reset();
      std::vector<std::byte> got(results.nbytes);
      CHECK(device->read_back(got, results).ok());
      for (std::uint32_t use = 0; use < 42; ++use) {
        const std::byte* expected = unit_bytes().data() + (3 * use) % 7 * kUnitBytes;
        CHECK(std::memcmp(got.data() + use * kUnitBytes, expected, kUnitBytes) == 0);
      }
      turn.rotation->close();
      device->deallocate(results);
    });
  }
}

// Four threads that want what lies in one slot each get it: none takes it from under another before it was used.
TEST(threads_that_want_one_slot_take_turns) {
  const auto device = std::make_shared<HostDevice>(poisoned());
  const Turn turn(device, readers(), terms_of(4, 1));
  std::vector<std::jthread> threads;
  for (std::uint32_t unit = 0; unit < 4; ++unit) {
    threads.emplace_back([&turn, unit] {
      HostConsumer consumer{turn};
      for (int use = 0; use < 25; ++use) CHECK_EQ(consumer.use(unit).text, "");
      consumer.finish();
    });
  }
}

TEST(who_gives_up_waiting_leaves_the_others_going) {
  const auto device = std::make_shared<HostDevice>(poisoned());
  const Turn turn(device, readers(), terms_of(3, 1));
  REQUIRE(turn.acquire(0).ok());
  {
    Rotation::Want want;  // in vain: the slot is held
    bool ready = true;
    std::jthread([&] {
      CHECK(turn.rotation->want(1, want).ok());
      CHECK(turn.rotation->acquire(want, {}, std::chrono::milliseconds(1), ready).ok());
    }).join();
    CHECK(!ready);
    CHECK(turn.right(0));
  }
  CHECK(turn.release(0).ok());
  HostConsumer consumer{turn};
  for (std::uint32_t use = 0; use < 9; ++use) CHECK(consumer.use(use % 3).ok());
  consumer.finish();
}

TEST(a_pass_may_begin_at_any_point) {
  const auto device = std::make_shared<HostDevice>(poisoned());
  {
    const auto pool = readers();
    for (std::uint32_t point = 0; point < 12; ++point) {
      const Turn turn(device, pool, terms_of(6, 3, 1 + point));
      HostConsumer consumer{turn};
      turn.rotation->begin_pass();
      for (std::uint32_t use = 0; use < 18; ++use) {
        if (use == point) turn.rotation->begin_pass();
        CHECK(consumer.use(use < point ? use % 6 : (use - point) % 6).ok());
      }
      consumer.finish();
      CHECK_EQ(turn.rotation->stats().demanded_fills, 0U);
    }
  }
  CHECK_EQ(device->live_objects(), 0U);
}

TEST(a_rotation_may_be_cancelled_or_closed_at_any_point) {
  for (const bool close : {false, true}) {
    for (const HostDeviceOptions& options : {HostDeviceOptions{}, poisoned()}) {
      const auto device = std::make_shared<HostDevice>(options);
      {
        const auto pool = readers();
        for (std::uint32_t point = 0; point < 16; ++point) {
          const Turn turn(device, pool, terms_of(6, 2, 1 + point));
          std::latch reached(1);
          std::jthread ending([&] {
            reached.wait();
            close ? turn.rotation->close() : turn.rotation->cancel();
          });
          HostConsumer consumer{turn};
          Status status;
          for (std::uint32_t use = 0; status.ok(); ++use) {
            if (use == point) reached.count_down();
            status = consumer.use(use % 6);
          }
          CHECK(ended(status));
          CHECK(ended(turn.acquire(0)));
          consumer.finish();
        }
        CHECK_EQ(pool->ring().leased(), 0U);
      }
      CHECK_EQ(device->live_objects(), 0U);
    }
  }
}

TEST(a_slow_link_does_not_hold_up_the_end) {
  HostDeviceOptions slow;
  slow.link_bytes_per_second = 1;  // a unit would take over an hour
  const auto device = std::make_shared<HostDevice>(slow);
  {
    const Turn turn(device, readers(), terms_of(6, 2, 0));
    std::jthread closing([&] { turn.rotation->close(); });
    CHECK(ended(turn.acquire(0)));
  }
  CHECK_EQ(device->live_objects(), 0U);
}

TEST(what_is_held_may_be_released_after_the_end) {
  on_standin([] {
    const auto device = cuda();
    const Turn turn(device, readers(), terms_of(3, 2));
    Stream stream;
    REQUIRE(Stream::make(device, stream).ok());
    REQUIRE(turn.acquire(0, stream.view()).ok());
    turn.rotation->close();
    CHECK(turn.release(0, stream.view()).ok());
    CHECK(turn.release(0, stream.view()).code == Code::kMisused);
    turn.rotation->close();
  });
}

TEST(an_engine_ends_its_rotations_and_the_last_user_their_threads) {
  const std::size_t before = count_entries("/proc/self/task");
  {
    const auto device = std::make_shared<HostDevice>(poisoned());
    DeviceSpan memory;
    REQUIRE(device->allocate(kUnitBytes, memory).ok());
    Rotation::Setup setup;
    setup.units = {unit_plan(0, memory.address)};
    setup.slot_of = {0};
    setup.slots = {memory};
    setup.order = {0};
    setup.sources = {unit_source()};
    CopyEngine engine(device, readers());
    std::shared_ptr<Rotation> rotation;
    REQUIRE(engine.rotate(setup, rotation).ok());
    CHECK(engine.close());
    Rotation::Want want;
    CHECK(ended(rotation->want(0, want)));
    std::shared_ptr<Rotation> late;
    CHECK(engine.rotate(setup, late).code == Code::kClosed);
    device->deallocate(memory);
  }
  CHECK_EQ(count_entries("/proc/self/task"), before);
}

// A source, on a reading thread, cannot wait for itself.
TEST(a_source_may_close_the_rotation_that_reads_it) {
  const auto device = std::make_shared<HostDevice>(poisoned());
  {
    std::latch made(1);
    const Turn* self = nullptr;
    Turn::Terms terms = terms_of(4, 2);
    terms.source = unit_source([&](std::uint64_t offset) {
      made.wait();
      if (offset >= 2 * kUnitBytes && self->rotation->runs_here()) self->rotation->close();
      return Status{};
    });
    const Turn turn(device, readers(), std::move(terms));
    self = &turn;
    made.count_down();
    HostConsumer consumer{turn};
    Status status;
    for (std::uint32_t use = 0; status.ok(); ++use) status = consumer.use(use % 4);
    CHECK(ended(status));
    consumer.finish();
  }
  CHECK_EQ(device->live_objects(), 0U);
}
