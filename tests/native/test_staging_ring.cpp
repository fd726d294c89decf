#include <thread>

#include "check.hpp"
#include "device/host_device.hpp"
#include "engine/staging_ring.hpp"

using namespace streamload;

namespace {

constexpr std::size_t kBufferBytes = 64 << 10;

std::shared_ptr<HostDevice> device_failing(const char* step, std::uint64_t at, bool from = true) {
  HostDeviceOptions options;
  options.fail_step = step;
  options.fail_at = at;
  options.fail_from = from;
  return std::make_shared<HostDevice>(options);
}

}  // namespace

TEST(the_ring_grows_only_as_far_as_leases_ask) {
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  const auto ring = std::make_shared<StagingRing>(device, kBufferBytes, 4 * kBufferBytes);
  CHECK_EQ(ring->pinned_bytes(), 0U);
  for (int i = 0; i < 10; ++i) {
    StagingRing::Buffer buffer;
    CHECK(ring->lease({}, buffer).ok());
    CHECK_EQ(buffer.bytes().size(), kBufferBytes);
    CHECK_EQ(reinterpret_cast<std::uintptr_t>(buffer.bytes().data()) % 4096, 0U);
    CHECK_EQ(ring->leased(), 1U);
  }
  CHECK_EQ(ring->pinned_bytes(), kBufferBytes);
  CHECK_EQ(ring->leased(), 0U);
}

TEST(a_full_ring_blocks_until_a_lease_returns) {
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  const auto ring = std::make_shared<StagingRing>(device, kBufferBytes, 2 * kBufferBytes);
  StagingRing::Buffer first;
  StagingRing::Buffer second;
  CHECK(ring->lease({}, first).ok());
  CHECK(ring->lease({}, second).ok());
  const std::byte* memory = first.bytes().data();
  std::jthread returner([lease = std::move(first)]() mutable { lease = StagingRing::Buffer(); });
  StagingRing::Buffer third;
  CHECK(ring->lease({}, third).ok());
  CHECK(third.bytes().data() == memory);
}

TEST(a_stopped_lease_is_cancelled) {
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  const auto ring = std::make_shared<StagingRing>(device, kBufferBytes, kBufferBytes);
  StagingRing::Buffer only;
  CHECK(ring->lease({}, only).ok());
  std::stop_source stop;
  std::jthread stopper([&] { stop.request_stop(); });
  StagingRing::Buffer never;
  CHECK(ring->lease(stop.get_token(), never).code == Code::kCancelled);
}

TEST(the_ring_goes_on_with_the_buffers_it_could_pin) {
  const auto device = device_failing("pin", 2);
  const auto ring = std::make_shared<StagingRing>(device, kBufferBytes, 8 * kBufferBytes);
  StagingRing::Buffer first;
  StagingRing::Buffer second;
  CHECK(ring->lease({}, first).ok());
  CHECK(ring->lease({}, second).ok());
  std::jthread returner([lease = std::move(first)]() mutable { lease = StagingRing::Buffer(); });
  StagingRing::Buffer third;
  CHECK(ring->lease({}, third).ok());
  CHECK_EQ(ring->pinned_bytes(), 2 * kBufferBytes);
}

TEST(a_ring_that_can_pin_nothing_says_why) {
  for (const char* step : {"pin", "create_event"}) {
    const auto device = device_failing(step, 0);
    const auto ring = std::make_shared<StagingRing>(device, kBufferBytes, 8 * kBufferBytes);
    StagingRing::Buffer buffer;
    const Status status = ring->lease({}, buffer);
    CHECK(!status.ok());
    CHECK(status.code != Code::kCancelled);
    CHECK(!buffer);
    CHECK_EQ(device->live_objects(), 0U);
  }
}

TEST(a_ring_that_could_pin_nothing_tries_again_for_the_next_load) {
  const auto device = device_failing("pin", 0, false);
  const auto ring = std::make_shared<StagingRing>(device, kBufferBytes, 8 * kBufferBytes);
  StagingRing::Buffer buffer;
  CHECK(!ring->lease({}, buffer).ok());
  CHECK(ring->lease({}, buffer).ok());
}

TEST(everything_is_unpinned_with_the_last_lease) {
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  StagingRing::Buffer last;
  {
    const auto ring = std::make_shared<StagingRing>(device, kBufferBytes, 4 * kBufferBytes);
    CHECK(ring->lease({}, last).ok());
  }
  CHECK(device->live_objects() > 0);
  last = StagingRing::Buffer();
  CHECK_EQ(device->live_objects(), 0U);
}

TEST(many_threads_share_the_ring_without_losing_a_buffer) {
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  const auto ring = std::make_shared<StagingRing>(device, kBufferBytes, 3 * kBufferBytes);
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 500; ++i) {
          StagingRing::Buffer buffer;
          if (!ring->lease({}, buffer).ok()) return;
          buffer.bytes()[0] = static_cast<std::byte>(t);  // a shared buffer would be a race for TSan
        }
      });
    }
  }
  CHECK_EQ(ring->leased(), 0U);
  CHECK(ring->pinned_bytes() <= 3 * kBufferBytes);
}
