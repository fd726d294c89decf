// Several loads over one pool: fair, whole, and nothing left, in whatever order they begin, fail and end.
#include <latch>
#include <random>
#include <thread>

#include "load_fixture.hpp"

using namespace streamload;

namespace {

std::shared_ptr<HostDevice> paced(double bytes_per_second) {
  HostDeviceOptions options;
  options.link_bytes_per_second = bytes_per_second;
  return std::make_shared<HostDevice>(options);
}

// A load over a pool of somebody else's.
struct Guest {
  std::shared_ptr<Device> device;
  std::size_t chunk;
  DeviceSpan memory;
  std::unique_ptr<CopyEngine> engine;
  std::shared_ptr<Ticket> ticket;

  Guest(std::shared_ptr<Device> target, const std::shared_ptr<ReadPool>& pool, std::size_t chunk_bytes = kChunk)
      : device(std::move(target)), chunk(chunk_bytes) {
    CHECK(device->allocate(bytes_in(chunk), memory).ok());
    engine = std::make_unique<CopyEngine>(device, pool);
  }
  Guest(const Guest&) = delete;
  Guest& operator=(const Guest&) = delete;
  ~Guest() {
    if (ticket) ticket->close();
    device->deallocate(memory);
  }
  Status submit(std::shared_ptr<Source> source) {
    return engine->submit(plan_to(memory.address, chunk), {std::move(source)}, {}, ticket);
  }
  Status wait() {
    bool ready = false;
    Status status = ticket->wait_all(kPatience, ready);
    CHECK(ready || !status.ok());
    return status;
  }
  [[nodiscard]] bool holds_everything() const {
    std::vector<std::byte> got(memory.nbytes);
    return device->read_back(got, memory).ok() && got == pattern(0, memory.nbytes);
  }
};

}  // namespace

TEST(devices_share_reading_threads_and_staging_memory) {
  const ScratchFile file(kBytes);
  const auto pool = std::make_shared<ReadPool>(ReadPoolOptions{kChunk, 4 * kChunk, 2});
  Guest first(std::make_shared<HostDevice>(poisoned()), pool);
  Guest second(std::make_shared<HostDevice>(poisoned()), pool);
  REQUIRE(first.submit(file_source(file)).ok() && second.submit(file_source(file)).ok());
  CHECK(first.wait().ok());
  CHECK(second.wait().ok());
  CHECK(first.holds_everything() && second.holds_everything());
  CHECK(pool->ring().bytes() <= 4 * kChunk);
}

TEST(a_load_to_a_slow_device_leaves_room_for_others) {
  const auto pool = std::make_shared<ReadPool>(ReadPoolOptions{kChunk, 16 * kChunk, 2});
  Guest slow(paced(1000), pool);  // would take 16 minutes, and holds buffers all the time
  Guest quick(std::make_shared<HostDevice>(poisoned()), pool);
  REQUIRE(slow.submit(pattern_source()).ok());
  while (pool->ring().leased() < 2) std::this_thread::yield();
  REQUIRE(quick.submit(pattern_source()).ok());
  CHECK(quick.wait().ok());
  CHECK(quick.holds_everything());
  CHECK(!slow.ticket->done());
}

TEST(loads_take_turns_at_one_reading_thread) {
  const auto pool = std::make_shared<ReadPool>(ReadPoolOptions{kChunk, 16 * kChunk, 1});
  std::latch begun(1);
  std::latch gate(1);
  std::vector<int> order;  // one reading thread
  const auto source = [&](int number) {
    return pattern_source([&, number](std::uint64_t call, std::uint64_t) {
      order.push_back(number);
      if (number == 0 && call == 0) {
        begun.count_down();
        gate.wait();
      }
      return Status{};
    });
  };
  Guest first(std::make_shared<HostDevice>(poisoned()), pool);
  Guest second(std::make_shared<HostDevice>(poisoned()), pool);
  REQUIRE(first.submit(source(0)).ok());
  begun.wait();
  REQUIRE(second.submit(source(1)).ok());
  gate.count_down();
  CHECK(first.wait().ok() && second.wait().ok());
  const auto seconds = std::count(order.begin(), order.begin() + kGroups * kReadsPerGroup, 1);
  CHECK(seconds >= static_cast<std::ptrdiff_t>(kGroups));  // about half of the first half; waits for buffers skew it
}

TEST(a_closed_pool_takes_no_load) {
  const auto pool = std::make_shared<ReadPool>(ReadPoolOptions{kChunk, 4 * kChunk, 2});
  Guest guest(std::make_shared<HostDevice>(poisoned()), pool);
  pool->close();
  pool->close();
  CHECK(guest.submit(pattern_source()).code == Code::kClosed);
}

namespace {

constexpr std::size_t kLittle = 4096;  // bytes a read, so that sanitizers get through

// What one thread does to a pool that it shares: loads begun, waited for, promoted, cancelled, closed and dropped.
class Restless {
 public:
  Restless(std::shared_ptr<ReadPool> pool, std::vector<std::shared_ptr<Device>> devices, const ScratchFile& file,
           unsigned seed)
      : pool_(std::move(pool)), devices_(std::move(devices)), file_(file), random_(seed) {}

  void run(int loads) {
    for (int i = 0; i < loads; ++i) load_once();
  }
  [[nodiscard]] int whole() const { return whole_; }

 private:
  [[nodiscard]] unsigned pick(unsigned count) { return static_cast<unsigned>(random_() % count); }

  [[nodiscard]] std::shared_ptr<Source> some_source(bool& fails) {
    const unsigned kind = pick(8);
    fails = kind == 0;
    if (fails) {
      const std::uint64_t at = pick(kGroups * kReadsPerGroup);
      return pattern_source([at](std::uint64_t call, std::uint64_t) {
        return call == at ? Status::failure(Code::kReadFailed, "on request") : Status{};
      });
    }
    if (kind == 1) return pattern_source();
    return kind == 2 ? file_source(file_, true) : file_source(file_, false);
  }

  void load_once() {
    Guest guest(devices_[pick(static_cast<unsigned>(devices_.size()))], pool_, kLittle);
    bool fails = false;
    REQUIRE(guest.submit(some_source(fails)).ok());
    const unsigned end = pick(6);
    if (end == 0) guest.ticket->cancel();
    if (end == 1) guest.ticket->close();
    if (end == 2) guest.ticket.reset();
    if (end <= 2) return;
    if (end == 3) guest.ticket->promote(pick(kGroups));
    if (end == 4) {
      std::jthread canceller([&] { guest.ticket->cancel(); });
      static_cast<void>(guest.wait());
    }
    const Status status = guest.wait();
    if (fails) CHECK(!status.ok());
    if (!status.ok()) return;
    CHECK(guest.holds_everything());
    ++whole_;
  }

  std::shared_ptr<ReadPool> pool_;
  std::vector<std::shared_ptr<Device>> devices_;
  const ScratchFile& file_;
  std::minstd_rand random_;
  int whole_ = 0;
};

}  // namespace

TEST(ten_thousand_small_loads_in_any_order_are_whole_or_failed_and_leave_nothing) {
  constexpr int kThreads = 4;
  constexpr int kLoadsPerThread = 2500;
  const ScratchFile file(bytes_in(kLittle));
  HostDeviceOptions staged;
  staged.staged = true;
  HostDeviceOptions poisoning;
  poisoning.poison = true;
  std::vector<std::shared_ptr<Device>> devices = {std::make_shared<HostDevice>(HostDeviceOptions{}),
                                                  std::make_shared<HostDevice>(staged),
                                                  std::make_shared<HostDevice>(poisoning)};
  {
    const auto pool = std::make_shared<ReadPool>(ReadPoolOptions{2 * kLittle, 16 * kLittle, 3});
    std::vector<Restless> restless;
    for (unsigned t = 0; t < kThreads; ++t) restless.emplace_back(pool, devices, file, t + 1);
    {
      std::vector<std::jthread> threads;
      for (Restless& one : restless) threads.emplace_back([&] { one.run(kLoadsPerThread); });
    }
    for (const Restless& one : restless) CHECK(one.whole() > kLoadsPerThread / 4);
    CHECK_EQ(pool->ring().leased(), 0U);
  }
  for (const auto& device : devices) CHECK_EQ(static_cast<HostDevice&>(*device).live_objects(), 0U);
}

TEST(a_pool_that_was_widened_reads_with_more_threads) {
  const auto pool = std::make_shared<ReadPool>(ReadPoolOptions{kChunk, 8 * kChunk, 1});
  pool->widen(4);
  pool->widen(2);  // never fewer
  std::latch four(4);
  std::atomic<int> reads{0};
  Guest load(std::make_shared<HostDevice>(HostDeviceOptions{}), pool);
  REQUIRE(load.submit(pattern_source([&](std::uint64_t, std::uint64_t) {
                if (reads++ < 4) four.arrive_and_wait();  // none of them ends before there are four
                return Status{};
              }))
              .ok());
  CHECK(load.wait().ok());
  CHECK(load.holds_everything());
}
