#include "load_fixture.hpp"

using namespace streamload;
using std::chrono::seconds;

TEST(every_device_and_route_delivers_every_byte) {
  const ScratchFile file(kBytes);
  const auto run = [&](const std::shared_ptr<Device>& device, std::shared_ptr<Source> source) {
    Load load(device);
    REQUIRE(load.submit(std::move(source)).ok());
    CHECK(load.wait_all().ok());
    CHECK(load.holds(0, kBytes));
    const TicketStats stats = load.ticket->stats();
    CHECK_EQ(stats.bytes_total, kBytes);
    CHECK_EQ(stats.bytes_read, kBytes);
    CHECK_EQ(stats.bytes_resident, kBytes);
    CHECK_EQ(stats.groups_resident, kGroups);
    CHECK_EQ(load.ticket->trace().size(), kGroups * kReadsPerGroup);
    load.ticket->close();
    CHECK_EQ(load.pool->ring().leased(), 0U);
  };
  for (const std::optional<bool> direct :
       {std::optional<bool>(), std::optional<bool>(true), std::optional<bool>(false)}) {
    run(std::make_shared<HostDevice>(HostDeviceOptions{}), file_source(file, direct));
    run(std::make_shared<HostDevice>(poisoned()), file_source(file, direct));
    on_standin([&] { run(cuda(), file_source(file, direct)); });
  }
  run(std::make_shared<HostDevice>(poisoned()), pattern_source());
  on_standin([&] { run(cuda(), pattern_source()); });
}

TEST(a_group_may_be_used_while_later_ones_are_unread) {
  std::latch gate(1);
  const auto source = pattern_source([&](std::uint64_t, std::uint64_t offset) {
    if (offset >= kGroupBytes) gate.wait();
    return Status{};
  });
  Load load(std::make_shared<HostDevice>(poisoned()));
  REQUIRE(load.submit(source).ok());
  CHECK(load.wait_group(0).ok());
  CHECK(load.holds(0, kGroupBytes));
  CHECK(load.ticket->resident(0));
  CHECK(!load.ticket->resident(kGroups - 1));
  CHECK(!load.ticket->done());
  gate.count_down();
  CHECK(load.wait_all().ok());
}

TEST(a_cuda_stream_waits_for_bytes_that_are_issued_but_not_there) {
  on_standin([] {
    const auto device = cuda();
    Load load(device);
    Stream compute;
    Event computed;
    REQUIRE(Stream::make(device, compute).ok() && Event::make(device, computed).ok());
    standin().hold_copies();
    REQUIRE(load.submit(pattern_source()).ok());
    CHECK(load.wait_group(0, compute.view()).ok());  // returns: issued
    CHECK(!load.ticket->resident(0));
    CHECK(device->record(computed.view(), compute.view()).ok());
    bool done = true;
    CHECK(device->query(computed.view(), done).ok());
    CHECK(!done);  // the stream itself waits
    standin().release_all_copies();
    CHECK(device->synchronize(computed.view()).ok());
    CHECK(load.holds(0, kGroupBytes));
    CHECK(load.wait_all().ok());
  });
}

TEST(the_first_copy_waits_for_the_allocating_stream) {
  on_standin([] {
    const auto device = cuda();
    Load load(device);
    Stream allocating;
    REQUIRE(Stream::make(device, allocating).ok());
    standin().hold_copies();
    std::vector<std::byte> busy(16);
    REQUIRE(device->copy(load.memory.subspan(0, 16), busy, allocating.view()).ok());  // work still in flight there
    REQUIRE(load.submit(pattern_source(), allocating.view()).ok());
    CHECK(load.wait_group(0, allocating.view()).ok());
    CHECK(!load.ticket->resident(0));
    standin().release_all_copies();
    CHECK(load.wait_all().ok());
    CHECK(load.holds(0, kBytes));
  });
}

TEST(a_promoted_group_is_read_next) {
  std::latch begun(1);
  std::latch gate(1);
  std::vector<std::uint64_t> order;
  const auto source =
      std::make_shared<CallbackSource>("order:", [&](std::uint64_t offset, HostSpan buffer, std::size_t& got) {
        order.push_back(offset);  // one reader thread
        if (order.size() == 1) {
          begun.count_down();
          gate.wait();
        }
        got = buffer.size();
        return Status{};
      });
  Load load(std::make_shared<HostDevice>(poisoned()), 1);
  REQUIRE(load.submit(source).ok());
  begun.wait();
  load.ticket->promote(kGroups - 1);
  gate.count_down();
  CHECK(load.wait_all().ok());
  REQUIRE(order.size() == kGroups * kReadsPerGroup);
  CHECK_EQ(order[0], 0U);
  for (std::size_t i = 0; i < kReadsPerGroup; ++i) CHECK_EQ(order[1 + i], (kGroups - 1) * kGroupBytes + i * kChunk);
  CHECK_EQ(order[1 + kReadsPerGroup], kChunk);
}

TEST(how_bytes_are_read_is_chosen_once_though_a_read_may_have_to_wait_for_a_buffer) {
  struct Choosy final : Source {
    std::shared_ptr<Source> inner = pattern_source();
    std::atomic<std::size_t> choices = 0;
    [[nodiscard]] const std::string& url() const noexcept override { return inner->url(); }
    Status choose(std::uint64_t /*offset*/, std::size_t /*nbytes*/, Choice& out) noexcept override {
      out = Choice{Route::kCallback, ++choices % 2 == 0 ? CacheState::kCached : CacheState::kUncached, true};
      return {};
    }
    Status read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                Choice& choice) noexcept override {
      return inner->read(offset, nbytes, buffer, out, choice);
    }
  };
  const auto source = std::make_shared<Choosy>();
  Load load(std::make_shared<HostDevice>(HostDeviceOptions{}));  // in place, with no buffer, where the route allows it
  REQUIRE(load.submit(source).ok());
  CHECK(load.wait_all().ok());
  CHECK(load.holds(0, kBytes));
  CHECK_EQ(source->choices.load(), kGroups * kReadsPerGroup);
}

TEST(a_finished_ticket_ignores_cancel) {
  Load load(std::make_shared<HostDevice>(poisoned()));
  REQUIRE(load.submit(pattern_source()).ok());
  CHECK(load.wait_all().ok());
  load.ticket->cancel();
  load.ticket->close();
  CHECK(load.wait_all().ok());
  CHECK(load.ticket->resident(0));
}

TEST(two_loads_share_one_ring) {
  const auto device = std::make_shared<HostDevice>(poisoned());
  Load load(device, 2, 2);
  DeviceSpan second_memory;
  REQUIRE(device->allocate(kBytes, second_memory).ok());
  std::shared_ptr<Ticket> second;
  REQUIRE(load.submit(pattern_source()).ok());
  REQUIRE(load.engine->submit(plan_to(second_memory.address), {pattern_source()}, {}, second).ok());
  CHECK(load.wait_all().ok());
  bool ready = false;
  CHECK(second->wait_all(kPatience, ready).ok());
  CHECK(ready);
  CHECK(load.holds(0, kBytes));
  second->close();
  device->deallocate(second_memory);
}

TEST(a_plan_without_reads_is_done_at_once) {
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  CopyEngine engine(device, std::make_shared<ReadPool>(ReadPoolOptions{kChunk, 2 * kChunk, 2}));
  Plan empty;
  empty.group_count = 3;
  std::shared_ptr<Ticket> ticket;
  REQUIRE(engine.submit(empty, {}, {}, ticket).ok());
  CHECK(ticket->done());
  CHECK(ticket->resident(2));
  bool ready = false;
  CHECK(ticket->wait_all(seconds(0), ready).ok());
  CHECK(ready);
}
