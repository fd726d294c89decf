// Rotations through CudaDevice on the stand-in driver: consumers enqueue work and run ahead of it, so both kinds of
// event have to hold.
#include "rotation_fixture.hpp"

using namespace streamload;

namespace {

Turn::Terms terms_of(std::uint32_t units, std::uint32_t slots, std::uint64_t debug_seed) {
  Turn::Terms terms;
  terms.slots = slots;
  terms.slot_of = spread(units, slots);
  terms.order = straight(units);
  terms.debug_seed = debug_seed;
  return terms;
}

}  // namespace

// More slots than units are one for each.
TEST(all_pairs_of_units_and_slots_are_right_while_the_host_runs_ahead) {
  for (std::uint32_t units = 1; units <= kMostUnits; units += kPairStep) {
    on_standin([&] {
      const auto device = cuda();
      const auto pool = readers();
      std::minstd_rand random(units);
      for (std::uint32_t slots = 1; slots <= std::min(kMostSlots, units + 1); slots += kPairStep) {
        const Turn turn(device, pool, terms_of(units, slots, units % 4 == 0 ? 0 : units));
        REQUIRE(turn.started.ok());
        StreamConsumer consumer(turn, std::size_t{3} * units);
        for (std::uint32_t pass = 0; pass < 3; ++pass) {
          turn.rotation->begin_pass();
          for (std::uint32_t unit = 0; unit < units; ++unit) {
            CHECK_EQ(consumer.use(unit).text, "");
            if (pass == units % 3 && random() % 16 == 0) pause(random, 30);
          }
        }
        consumer.finish();
        const RotationStats stats = turn.rotation->stats();
        CHECK_EQ(stats.demanded_fills, 0U);
        if (slots >= units) CHECK(stats.fills <= units);  // the last one may not have landed yet
        turn.rotation->close();
      }
    });
  }
}

TEST(units_used_in_any_order_are_right_on_a_stream) {
  on_standin([] {
    const auto device = cuda();
    const auto pool = readers();
    std::minstd_rand random(5);
    for (std::uint32_t round = 0; round < 20; ++round) {
      const auto units = 2 + static_cast<std::uint32_t>(random() % 10);
      const Turn turn(device, pool, terms_of(units, 1 + static_cast<std::uint32_t>(random() % 4), 1 + round));
      REQUIRE(turn.started.ok());
      StreamConsumer consumer(turn, 40);
      for (int use = 0; use < 40; ++use) {
        CHECK_EQ(consumer.use(static_cast<std::uint32_t>(random() % units)).text, "");
        if (random() % 8 == 0) turn.rotation->begin_pass();
      }
      consumer.finish();
      turn.rotation->close();
    }
  });
}

// What the copies of one fill wait for must not hold up the reads of the next.
TEST(the_next_fill_is_read_before_the_last_one_has_landed) {
  on_standin([] {
    std::atomic<std::uint64_t> read{0};  // bytes of units whose reads have begun
    const auto device = cuda();
    Turn::Terms terms = terms_of(6, 3, 0);
    terms.source = unit_source([&](std::uint64_t offset) {
      read = std::max(read.load(), offset + kUnitRead);
      read.notify_all();
      return Status{};
    });
    standin().hold_copies();
    const Turn turn(device, readers(), std::move(terms));
    REQUIRE(turn.started.ok());
    for (std::uint64_t seen = 0; seen < 3 * kUnitBytes; seen = read) read.wait(seen);  // hangs where a fill waits
    CHECK_EQ(turn.rotation->stats().fills, 0U);
    standin().release_all_copies();
    StreamConsumer consumer(turn, 12);
    for (std::uint32_t use = 0; use < 12; ++use) CHECK(consumer.use(use % 6).ok());
    consumer.finish();
    turn.rotation->close();
  });
}

#ifndef __SANITIZE_THREAD__  // which sees the race itself
// What the tests above are worth: a wait that is left out shows in the values.
TEST(copies_that_do_not_wait_for_a_release_are_seen) {
  std::size_t wrong = 0;
  for (int round = 0; round < 100 && wrong == 0; ++round) {
    on_standin([&] {
      const auto device = cuda();
      Turn::Terms terms = terms_of(4, 1, 0);
      terms.breach = Breach::kForgottenRelease;
      const Turn turn(device, readers(), std::move(terms));
      REQUIRE(turn.started.ok());
      StreamConsumer consumer(turn, 8);
      for (std::uint32_t use = 0; use < 8; ++use) CHECK(consumer.use(use % 4).ok());
      wrong += consumer.wrong();
      turn.rotation->close();
    });
  }
  CHECK(wrong > 0);
}

#endif

TEST(a_rotation_begins_behind_the_stream_that_allocated_its_slots) {
  on_standin([] {
    const auto device = cuda();
    const auto memory = std::make_shared<DeviceSpan>();
    REQUIRE(device->allocate(kUnitBytes, *memory).ok());
    {
      Stream allocating;
      REQUIRE(Stream::make(device, allocating).ok());
      standin().hold_copies();
      const std::vector<std::byte> bytes(64, std::byte{1});
      REQUIRE(device->copy(memory->subspan(0, 64), bytes, allocating.view()).ok());
      Turn::Terms terms = terms_of(2, 1, 0);
      terms.after = allocating.view();
      const Turn turn(device, readers(), std::move(terms));
      REQUIRE(turn.started.ok());
      standin().release_copies(1);  // the copy above: all others stand behind it
      standin().release_all_copies();
      StreamConsumer consumer(turn, 2);
      CHECK(consumer.use(0).ok());
      CHECK(consumer.use(1).ok());
      consumer.finish();
      turn.rotation->close();
    }
    device->deallocate(*memory);
  });
}
