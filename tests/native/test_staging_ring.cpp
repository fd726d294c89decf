#include <thread>

#include "check.hpp"
#include "device/host_device.hpp"
#include "engine/staging_ring.hpp"

using namespace streamload;

namespace {

using Answer = StagingRing::Answer;

constexpr std::size_t kBufferBytes = 64 << 10;

std::shared_ptr<HostDevice> device_failing(const char* step, std::uint64_t at, bool from = true) {
  HostDeviceOptions options;
  options.fail_step = step;
  options.fail_at = at;
  options.fail_from = from;
  return std::make_shared<HostDevice>(options);
}

std::shared_ptr<HostDevice> device() { return std::make_shared<HostDevice>(HostDeviceOptions{}); }

struct Ring {
  std::atomic<int> freed{0};
  std::shared_ptr<std::atomic<std::size_t>> borrowed = std::make_shared<std::atomic<std::size_t>>(0);
  std::shared_ptr<StagingRing> ring;

  explicit Ring(std::size_t buffers)
      : ring(std::make_shared<StagingRing>(kBufferBytes, buffers * kBufferBytes, [this] { ++freed; })) {}
  StagingRing* operator->() const { return ring.get(); }

  // A buffer as a reading thread gets one; empty where there is none, or none that can be pinned.
  StagingRing::Buffer lend(const std::shared_ptr<Device>& target) {
    StagingRing::Buffer buffer;
    const Answer answer = ring->try_lend(false, buffer);
    if (answer == Answer::kGrow) CHECK(ring->grow(-1, buffer).ok());
    if (buffer) ring->prepare(buffer, target, borrowed);
    return buffer;
  }
};

}  // namespace

TEST(the_ring_grows_only_as_far_as_leases_ask) {
  const auto target = device();
  Ring ring(4);
  CHECK_EQ(ring->bytes(), 0U);
  for (int i = 0; i < 10; ++i) {
    const StagingRing::Buffer buffer = ring.lend(target);
    REQUIRE(static_cast<bool>(buffer));
    CHECK_EQ(buffer.bytes().size(), kBufferBytes);
    CHECK_EQ(reinterpret_cast<std::uintptr_t>(buffer.bytes().data()) % 4096, 0U);
    CHECK_EQ(ring->leased(), 1U);
    CHECK_EQ(*ring.borrowed, 1U);
  }
  CHECK_EQ(ring->pinned_bytes(), kBufferBytes);
  CHECK_EQ(ring->leased(), 0U);
  CHECK_EQ(*ring.borrowed, 0U);
  CHECK_EQ(ring.freed, 10);
}

TEST(the_buffer_last_given_back_is_lent_first) {
  const auto target = device();
  Ring ring(4);
  StagingRing::Buffer first = ring.lend(target);
  StagingRing::Buffer second = ring.lend(target);
  const std::byte* warmest = first.bytes().data();
  second = StagingRing::Buffer();
  first = StagingRing::Buffer();
  CHECK(ring.lend(target).bytes().data() == warmest);
}

TEST(a_full_ring_has_none_until_a_lease_returns) {
  const auto target = device();
  Ring ring(2);
  StagingRing::Buffer first = ring.lend(target);
  const StagingRing::Buffer second = ring.lend(target);
  CHECK(!ring.lend(target));
  first = StagingRing::Buffer();
  CHECK(static_cast<bool>(ring.lend(target)));
}

TEST(a_ring_whose_buffers_wait_for_copies_does_not_grow) {
  const auto target = device();
  Ring ring(16);
  std::vector<StagingRing::Buffer> lent;
  for (int i = 0; i < 4; ++i) lent.push_back(ring.lend(target));
  lent[0].mark_copying();
  lent[1].mark_copying();
  lent[1].mark_copying();     // counted once
  CHECK(!ring.lend(target));  // the link is behind
  StagingRing::Buffer needed;
  CHECK(ring->try_lend(true, needed) == Answer::kGrow);  // but somebody has none at all
  ring->give_up_growth();
  lent[1] = StagingRing::Buffer();
  lent.push_back(ring.lend(target));
  CHECK(static_cast<bool>(lent.back()));
  lent.push_back(ring.lend(target));  // reads are behind: one more of 16
  CHECK(static_cast<bool>(lent.back()));
  CHECK_EQ(ring->bytes(), 5 * kBufferBytes);
}

TEST(a_refused_growth_and_an_unused_lease_change_nothing) {
  const auto target = device();
  Ring ring(2);
  StagingRing::Buffer buffer;
  CHECK(ring->try_lend(false, buffer) == Answer::kGrow);
  ring->give_up_growth();
  CHECK(ring->try_lend(false, buffer) == Answer::kGrow);
  CHECK(ring->grow(-1, buffer).ok());
  buffer = StagingRing::Buffer();
  CHECK_EQ(ring.freed, 1);
  CHECK(ring->try_lend(false, buffer) == Answer::kLent);
  ring->put_back(buffer);
  CHECK(!buffer);
  CHECK_EQ(ring.freed, 1);
  CHECK_EQ(ring->leased(), 0U);
}

TEST(the_ring_goes_on_with_the_buffers_it_could_pin) {
  const auto target = device_failing("pin", 2);
  Ring ring(8);
  const StagingRing::Buffer first = ring.lend(target);
  StagingRing::Buffer second = ring.lend(target);
  CHECK(!ring.lend(target));  // made, refused, and given up
  CHECK(!ring.lend(target));
  CHECK_EQ(ring->bytes(), 2 * kBufferBytes);
  CHECK(!ring->refusal().empty());
  second = StagingRing::Buffer();
  CHECK(static_cast<bool>(ring.lend(target)));
}

TEST(a_ring_that_can_pin_nothing_lends_what_is_not_pinned) {
  const auto target = device_failing("pin", 0);
  Ring ring(3);
  std::vector<StagingRing::Buffer> lent;
  for (int i = 0; i < 3; ++i) lent.push_back(ring.lend(target));
  for (const auto& buffer : lent) CHECK(static_cast<bool>(buffer));
  CHECK_EQ(ring->pinned_bytes(), 0U);
  CHECK_EQ(ring->bytes(), 3 * kBufferBytes);
  lent.clear();
  CHECK(static_cast<bool>(ring.lend(target)));  // not asked again for a buffer that was refused
  CHECK_EQ(target->live_objects(), 0U);
}

TEST(a_buffer_is_pinned_once_for_each_domain_that_uses_it) {
  const auto one = device();
  const auto other = device();
  Ring ring(1);
  for (int i = 0; i < 3; ++i) {
    CHECK(static_cast<bool>(ring.lend(one)));
    CHECK(static_cast<bool>(ring.lend(other)));
  }
  CHECK_EQ(one->live_objects(), 1U);
  CHECK_EQ(other->live_objects(), 1U);
  CHECK_EQ(ring->pinned_bytes(), kBufferBytes);
}

TEST(idle_memory_is_released_and_made_again) {
  const auto target = device();
  Ring ring(4);
  StagingRing::Buffer held = ring.lend(target);
  CHECK(static_cast<bool>(ring.lend(target)));
  ring->release_idle();
  CHECK_EQ(ring->bytes(), kBufferBytes);  // the one that is held
  CHECK_EQ(target->live_objects(), 1U);
  held = StagingRing::Buffer();
  ring->release_idle();
  CHECK_EQ(ring->bytes(), 0U);
  CHECK_EQ(ring->pinned_bytes(), 0U);
  CHECK_EQ(target->live_objects(), 0U);
  CHECK(static_cast<bool>(ring.lend(target)));
}

TEST(everything_is_unpinned_with_the_last_lease) {
  const auto target = device();
  StagingRing::Buffer last;
  {
    Ring ring(4);
    last = ring.lend(target);
    CHECK(target->live_objects() > 0);
    last = StagingRing::Buffer();
  }
  CHECK_EQ(target->live_objects(), 0U);
}

TEST(many_threads_share_the_ring_without_losing_a_buffer) {
  const auto target = device();
  Ring ring(3);
  std::atomic<int> lent{0};
  {
    std::vector<std::jthread> threads;
    for (int t = 0; t < 8; ++t) {
      threads.emplace_back([&, t] {
        for (int i = 0; i < 500; ++i) {
          const StagingRing::Buffer buffer = ring.lend(target);
          if (!buffer) continue;
          buffer.bytes()[0] = static_cast<std::byte>(t);  // a shared buffer would be a race for TSan
          ++lent;
        }
      });
    }
  }
  CHECK(lent > 0);
  CHECK_EQ(ring->leased(), 0U);
  CHECK_EQ(*ring.borrowed, 0U);
  CHECK(ring->bytes() <= 3 * kBufferBytes);
}
