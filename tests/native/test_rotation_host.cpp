// Units that come from page-locked host memory.
#include "rotation_fixture.hpp"

using namespace streamload;

namespace {

Turn::Terms terms_of(std::uint32_t units, std::uint32_t slots) {
  Turn::Terms terms;
  terms.slots = slots;
  terms.slot_of = spread(units, slots);
  terms.order = straight(units);
  return terms;
}

std::vector<HostCopy> halves(const Turn& turn, std::uint32_t unit) {
  const std::byte* bytes = unit_bytes().data() + unit * kUnitBytes;
  constexpr std::size_t kHalf = kUnitBytes / 2;
  return {{bytes, turn.slot(unit).subspan(0, kHalf)}, {bytes + kHalf, turn.slot(unit).subspan(kHalf, kHalf)}};
}

}  // namespace

TEST(a_unit_kept_on_the_host_comes_from_there_and_is_right) {
  for (const HostDeviceOptions& options : {HostDeviceOptions{}, poisoned()}) {
    const auto device = std::make_shared<HostDevice>(options);
    {
      const Turn turn(device, readers(), terms_of(5, 2));
      HostConsumer consumer{turn};
      for (std::uint32_t pass = 0; pass < 6; ++pass) {
        if (pass < 5) CHECK(turn.rotation->keep_on_host(pass, halves(turn, pass)).ok());  // one more each pass
        for (std::uint32_t unit = 0; unit < 5; ++unit) CHECK_EQ(consumer.use(unit).text, "");
      }
      consumer.finish();
      const RotationStats stats = turn.rotation->stats();
      CHECK(stats.bytes_from_host > 0);
      CHECK_EQ(stats.bytes_streamed, stats.bytes_from_host + stats.bytes_read);
      CHECK_EQ(stats.bytes_streamed, stats.fills * kUnitBytes);
      CHECK(stats.bytes_read <= (5 * 5 + 2) * kUnitBytes);  // nothing of the last pass
    }
    CHECK_EQ(device->live_objects(), 0U);
  }
}

TEST(fills_from_host_memory_and_from_sources_are_right_on_a_stream) {
  for (const std::uint32_t slots : {1U, 2U, 3U}) {
    on_standin([&] {
      const auto device = cuda();
      const HostSpan pinned(const_cast<std::byte*>(unit_bytes().data()), unit_bytes().size());
      REQUIRE(device->pin(pinned).ok());
      {
        const Turn turn(device, readers(), terms_of(7, slots));
        StreamConsumer consumer(turn, 42);
        for (std::uint32_t unit = 0; unit < 7; unit += 2) {
          CHECK(turn.rotation->keep_on_host(unit, halves(turn, unit)).ok());
        }
        for (std::uint32_t use = 0; use < 42; ++use) CHECK_EQ(consumer.use(use % 7).text, "");
        consumer.finish();
        CHECK(turn.rotation->stats().bytes_from_host > 0);
        turn.rotation->close();
      }
      device->unpin(pinned);
    });
  }
}

TEST(memory_that_would_leave_the_slot_is_refused) {
  const auto device = std::make_shared<HostDevice>(poisoned());
  const Turn turn(device, readers(), terms_of(2, 1));
  const std::byte* bytes = unit_bytes().data();
  CHECK(turn.rotation->keep_on_host(5, {}).code == Code::kInvalid);
  const DeviceSpan past{turn.slot(0).address + 1, kUnitBytes};
  CHECK(turn.rotation->keep_on_host(0, {{bytes, past}}).code == Code::kInvalid);
  turn.rotation->close();
  CHECK(turn.rotation->keep_on_host(0, {}).code == Code::kClosed);
}
