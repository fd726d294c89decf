// The rules of order: each is broken on purpose, and somebody notices before anything has happened.
#include "rotation_fixture.hpp"

using namespace streamload;

namespace {

bool says(const Status& status, const std::string& words) {
  const bool said = status.code == Code::kMisused && status.text.starts_with("ordering rule broken:") &&
                    status.text.find(words) != std::string::npos;
  if (!said) std::printf("  it said: %s\n", status.text.c_str());
  return said;
}

Turn::Terms terms_of(std::uint32_t units, std::uint32_t slots, Breach breach) {
  Turn::Terms terms;
  terms.slots = slots;
  terms.slot_of = spread(units, slots);
  terms.order = straight(units);
  terms.breach = breach;
  return terms;
}

HostDeviceOptions staged() {
  HostDeviceOptions options;
  options.staged = true;
  return options;
}

// Uses units in order until something is wrong.
Status use_until_wrong(const Turn& turn) {
  Status status = turn.started;
  for (std::uint32_t use = 0; status.ok() && use < 1000; ++use) {
    const std::uint32_t unit = use % turn.rotation->unit_count();
    status = turn.acquire(unit);
    if (status.ok()) status = turn.release(unit);
  }
  return status;
}

// Waits for a failure that is not about the caller's own call.
Status wait_for_failure(const Turn& turn, std::uint32_t missing) {
  Status status;
  std::jthread([&] { status = turn.acquire(missing); }).join();
  return status;
}

}  // namespace

TEST(no_rule_is_broken_where_none_is_to_be) {
  const Turn turn(std::make_shared<HostDevice>(staged()), readers(), terms_of(5, 2, Breach::kNone));
  CHECK_EQ(use_until_wrong(turn).text, "");
}

TEST(a_fill_that_begins_while_the_slot_is_held_is_noticed) {
  const Turn turn(std::make_shared<HostDevice>(staged()), readers(), terms_of(2, 1, Breach::kHeldSlot));
  CHECK(turn.acquire(0).ok());
  CHECK(says(wait_for_failure(turn, 1), "is held"));
  CHECK(turn.right(0));
}

TEST(a_fill_that_begins_while_another_is_under_way_is_noticed) {
  on_standin([] {
    const auto device = cuda();
    standin().hold_copies();
    const Turn turn(device, readers(), terms_of(2, 1, Breach::kUnlandedSlot));
    while (standin().count("in_flight") == 0) std::this_thread::yield();  // the first fill, which nothing lands
    CHECK(says(wait_for_failure(turn, 1), "is under way"));
    standin().release_all_copies();
    turn.rotation->close();
  });
}

TEST(what_somebody_waits_for_is_not_overwritten_unnoticed) {
  // Between its landing and the moment it is taken: random delays find it soon.
  Status status;
  for (std::uint64_t seed = 1; status.ok() && seed < 200; ++seed) {
    Turn::Terms terms = terms_of(2, 1, Breach::kWantedUnit);
    terms.order = {1};  // the other one is only demanded
    terms.debug_seed = seed;
    const Turn turn(std::make_shared<HostDevice>(staged()), readers(), std::move(terms));
    for (int use = 0; status.ok() && use < 20; ++use) {
      status = turn.acquire(0);
      if (status.ok()) status = turn.release(0);
    }
  }
  CHECK(says(status, "somebody waits for"));
}

TEST(what_is_needed_sooner_is_not_overwritten_unnoticed) {
  Turn::Terms terms = terms_of(3, 2, Breach::kNeededUnit);
  terms.slot_of = {0, 0, 1};
  terms.order = {0, 1};
  const Turn turn(std::make_shared<HostDevice>(staged()), readers(), std::move(terms));
  Status status;
  while (status.ok()) {  // until unit 1 is put over unit 0, which nobody has used yet
    status = turn.acquire(2);
    if (status.ok()) status = turn.release(2);
  }
  CHECK(says(status, "is needed sooner"));
}

TEST(copies_that_leave_out_a_release_are_noticed) {
  on_standin([] {
    const auto device = cuda();
    const Turn turn(device, readers(), terms_of(3, 1, Breach::kForgottenRelease));
    StreamConsumer consumer(turn, 20);
    Status status;
    for (std::uint32_t use = 0; status.ok() && use < 20; ++use) status = consumer.use(use % 3);
    CHECK(says(status, "wait for 0 of 1 releases"));
    turn.rotation->close();
  });
}

TEST(news_of_a_fill_that_is_over_are_noticed) {
  const Turn turn(std::make_shared<HostDevice>(staged()), readers(), terms_of(3, 2, Breach::kStaleNews));
  CHECK(says(use_until_wrong(turn), "news of a fill that is over"));
}

TEST(a_unit_acquired_before_its_event_is_recorded_is_noticed) {
  for (const bool on_stream : {false, true}) {
    on_standin([&] {
      const auto device = cuda();
      std::atomic<bool> reads{false};
      std::atomic<bool> open{false};
      Turn::Terms terms = terms_of(3, 2, Breach::kEarlyAcquire);
      terms.source = unit_source([&](std::uint64_t) {
        reads = true;
        reads.notify_all();
        open.wait(false);
        return Status{};
      });
      const Turn turn(device, readers(), std::move(terms));
      Stream stream;
      REQUIRE(Stream::make(device, stream).ok());
      reads.wait(false);
      const Status status = turn.acquire(0, on_stream ? std::optional(stream.view()) : std::nullopt);
      CHECK(says(status, on_stream ? "before its event is recorded" : "before its bytes have landed"));
      open = true;
      open.notify_all();
      turn.rotation->close();
    });
  }
}

TEST(a_unit_that_does_not_lie_in_its_slot_is_noticed) {
  const Turn turn(std::make_shared<HostDevice>(staged()), readers(), terms_of(3, 1, Breach::kOtherUnit));
  CHECK(says(use_until_wrong(turn), "is acquired and not there"));
}

TEST(a_release_without_a_hold_is_noticed) {
  const Turn turn(std::make_shared<HostDevice>(staged()), readers(), terms_of(3, 2, Breach::kUnheldRelease));
  CHECK(says(turn.release(1), "nobody holds it"));
}

TEST(the_record_of_its_own_knows_what_a_rotation_cannot_be_made_to_do) {
  OrderingRules rules(1);
  CHECK(rules.fill_begins(0, 3, 1, true, true).ok());  // nothing lies there yet
  CHECK(rules.copies_begin(0, 0).ok());
  CHECK(rules.issued(0, 1).ok());
  CHECK(rules.acquired(0, 3, false).ok());
  CHECK(says(rules.released(0, 4, true), "was overwritten while it was held"));
  CHECK(rules.released(0, 3, true).ok());
  CHECK(rules.landed(0, 1).ok());
  CHECK(says(rules.landed(0, 1), "news of a fill that is over"));
  CHECK(says(rules.fill_begins(0, 4, 3, false, false), "another one was expected"));
}
