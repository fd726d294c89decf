#include <algorithm>
#include <functional>
#include <latch>
#include <thread>

#include "check.hpp"
#include "device/cuda_device.hpp"
#include "device/host_device.hpp"
#include "engine/copy_engine.hpp"
#include "io/callback_source.hpp"
#include "scratch.hpp"
#include "standin/standin.hpp"

using namespace streamload;
using std::chrono::seconds;

namespace {

constexpr std::size_t kChunk = 64 << 10;
constexpr std::uint32_t kGroups = 5;
constexpr std::size_t kReadsPerGroup = 3;
constexpr std::size_t kTail = 100;  // the last read of a group is this much shorter, so that reads are misaligned
constexpr std::size_t kGroupBytes = kReadsPerGroup * kChunk - kTail;
constexpr std::size_t kBytes = kGroups * kGroupBytes;
constexpr auto kPatience = seconds(30);  // only a hang takes this long

// A plan of kGroups groups that moves the whole file to `target`, two copies a read.
Plan plan_to(std::uintptr_t target) {
  Plan plan;
  plan.group_count = kGroups;
  plan.nbytes = kBytes;
  std::size_t offset = 0;
  for (std::uint32_t group = 0; group < kGroups; ++group) {
    for (std::size_t i = 0; i < kReadsPerGroup; ++i) {
      const std::size_t nbytes = i + 1 == kReadsPerGroup ? kChunk - kTail : kChunk;
      plan.reads.push_back({0, group, offset, nbytes, plan.copies.size(), plan.copies.size() + 2});
      plan.copies.push_back({0, DeviceSpan{target + offset, 1000}});
      plan.copies.push_back({1000, DeviceSpan{target + offset + 1000, nbytes - 1000}});
      offset += nbytes;
    }
  }
  return plan;
}

struct Load {
  std::shared_ptr<Device> device;
  DeviceSpan memory;
  std::shared_ptr<CopyEngine> engine;
  std::shared_ptr<Ticket> ticket;

  Load(std::shared_ptr<Device> target, std::size_t threads = 2, std::size_t buffers = 4) : device(std::move(target)) {
    if (!device->allocate(kBytes, memory).ok()) return;
    engine = std::make_shared<CopyEngine>(device, CopyEngineOptions{kChunk, buffers * kChunk, threads});
  }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;
  ~Load() {
    if (ticket) ticket->close();
    ticket.reset();
    engine.reset();
    if (!memory.empty()) device->deallocate(memory);
  }

  Status submit(std::shared_ptr<Source> source, std::optional<StreamView> after = {}) {
    return engine->submit(plan_to(memory.address), {std::move(source)}, after, ticket);
  }
  Status wait_all() {
    bool ready = false;
    Status status = ticket->wait_all(kPatience, ready);
    CHECK(ready || !status.ok());
    return status;
  }
  Status wait_group(std::uint32_t group, std::optional<StreamView> stream = {}) {
    bool ready = false;
    bool resident = false;
    Status status = ticket->wait_group(group, stream, kPatience, ready, resident);
    CHECK(ready || !status.ok());
    return status;
  }
  [[nodiscard]] bool holds(std::size_t first, std::size_t count) const {
    std::vector<std::byte> got(count);
    if (!device->read_back(got, memory.subspan(first, count)).ok()) return false;
    return got == pattern(first, count);
  }
};

std::shared_ptr<Source> file_source(const ScratchFile& file, std::optional<bool> direct = {}) {
  std::shared_ptr<Source> source;
  throw_if_error(FileSource::open(file.path(), file.stamp(), direct, source));
  return source;
}

// Serves the pattern; before each read `before(call, offset)` may block or fail it.
std::shared_ptr<Source> pattern_source(std::function<Status(std::uint64_t, std::uint64_t)> before) {
  auto calls = std::make_shared<std::atomic<std::uint64_t>>(0);
  return std::make_shared<CallbackSource>(
      "pattern:", [calls, before = std::move(before)](std::uint64_t offset, HostSpan buffer, std::size_t& got) {
        if (Status status = before(calls->fetch_add(1), offset); !status.ok()) return status;
        const auto bytes = pattern(offset, buffer.size());
        std::copy(bytes.begin(), bytes.end(), buffer.begin());
        got = buffer.size();
        return Status{};
      });
}
std::shared_ptr<Source> pattern_source() {
  return pattern_source([](std::uint64_t, std::uint64_t) { return Status{}; });
}

HostDeviceOptions poisoned() {
  HostDeviceOptions options;
  options.poison = true;
  options.seed = 11;
  return options;
}

Standin& standin() {
  static Standin controls = open_standin(STREAMLOAD_STANDIN_PATH);
  return controls;
}

std::shared_ptr<Device> cuda() {
  std::shared_ptr<CudaDevice> device;
  throw_if_error(CudaDevice::make(0, STREAMLOAD_STANDIN_PATH, device));
  return device;
}

// Runs `body` against a fresh stand-in and holds it to account afterwards.
void on_standin(const std::function<void()>& body) {
  standin().reset();
  body();
  CHECK_EQ(standin().violation_text(), "0: ");
  CHECK_EQ(standin().live_text(), "0: ");
}

}  // namespace

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
    CHECK_EQ(load.engine->ring()->leased(), 0U);
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

TEST(the_failure_of_any_read_wakes_every_waiter_with_its_place) {
  for (std::uint64_t k = 0; k < kGroups * kReadsPerGroup; ++k) {
    const auto source = pattern_source([k](std::uint64_t call, std::uint64_t) {
      return call == k ? Status::failure(Code::kReadFailed, "read " + std::to_string(k) + " failed", 5) : Status{};
    });
    const auto device = std::make_shared<HostDevice>(poisoned());
    {
      Load load(device);
      REQUIRE(load.submit(source).ok());
      std::atomic<int> woken{0};
      {
        std::vector<std::jthread> waiters;
        for (std::uint32_t group = 0; group < kGroups; ++group) {
          waiters.emplace_back([&, group] {
            const Status status = load.wait_group(group);
            if (status.ok()) return;  // resident before the failure
            if (status.code == Code::kReadFailed && status.source == "pattern:" && status.nbytes > 0) ++woken;
          });
        }
      }
      const Status status = load.wait_all();
      CHECK(status.code == Code::kReadFailed);
      CHECK_EQ(status.system_code, 5);
      CHECK(woken > 0);
      CHECK(load.wait_group(0).code == Code::kReadFailed);  // and everyone after
      load.ticket->close();
      CHECK_EQ(load.engine->ring()->leased(), 0U);
    }
    CHECK_EQ(device->live_objects(), 0U);
  }
}

TEST(the_failure_of_any_host_device_call_ends_the_load_and_leaves_nothing) {
  for (const char* step : {"create_stream", "create_event", "record", "synchronize", "copy", "allocate"}) {
    int failures = 0;
    for (std::uint64_t k = 0;; ++k) {
      HostDeviceOptions options;
      options.fail_step = step;
      options.fail_at = k;
      const auto device = std::make_shared<HostDevice>(options);
      Status status;
      {
        Load load(device);
        if (!load.engine) {
          status = Status::failure(Code::kOutOfDeviceMemory, "allocate");
        } else {
          status = load.submit(pattern_source());
          if (status.ok()) status = load.wait_all();
          if (status.ok()) CHECK(load.holds(0, kBytes));
          if (load.ticket) load.ticket->close();
          CHECK_EQ(load.engine->ring()->leased(), 0U);
        }
      }
      CHECK_EQ(device->live_objects(), 0U);
      // A ring that cannot grow goes on with what it has, so only the others must fail at every k.
      if (status.ok() && std::string(step) != "create_event") break;
      if (status.ok() && k > kGroups + 6) break;
      failures += status.ok() ? 0 : 1;
      CHECK(k < 100);
    }
    CHECK(failures > 0);
  }
}

TEST(the_failure_of_any_driver_call_ends_the_load_and_leaves_nothing) {
  constexpr int kCudaErrorUnknown = 999;
  for (const char* function :
       {"cuStreamCreate", "cuEventCreate", "cuEventRecord", "cuStreamWaitEvent", "cuEventSynchronize",
        "cuMemcpyHtoDAsync", "cuMemAlloc", "cuCtxSetCurrent", "cuMemHostRegister"}) {
    int failures = 0;
    for (std::uint64_t k = 0; k < 40; ++k) {
      standin().reset();
      Status status;
      bool correct = true;
      {
        const auto device = cuda();
        standin().fail(function, k, kCudaErrorUnknown);
        Load load(device);
        if (load.engine) {
          status = load.submit(pattern_source());
          if (status.ok()) status = load.wait_all();
          if (load.ticket) load.ticket->close();
          CHECK_EQ(load.engine->ring()->leased(), 0U);
          correct = !status.ok() || load.holds(0, kBytes);
        } else {
          status = Status::failure(Code::kDeviceFailed, "allocate");
        }
      }
      CHECK(correct);
      CHECK_EQ(standin().violation_text(), "0: ");
      CHECK_EQ(standin().live_text(), "0: ");
      failures += status.ok() ? 0 : 1;
    }
    CHECK(failures > 0 || std::string(function) == "cuMemHostRegister" || std::string(function) == "cuStreamWaitEvent");
  }
}

TEST(a_load_that_can_pin_nothing_is_out_of_pinned_memory) {
  HostDeviceOptions options;
  options.fail_step = "pin";
  options.fail_from = true;
  for (std::uint64_t k = 0; k < 4; ++k) {
    options.fail_at = k;
    const auto device = std::make_shared<HostDevice>(options);
    {
      Load load(device);
      REQUIRE(load.submit(pattern_source()).ok());
      const Status status = load.wait_all();
      CHECK(k == 0 ? status.code == Code::kOutOfPinnedMemory : status.ok());
      if (k > 0) CHECK(load.holds(0, kBytes));
    }
    CHECK_EQ(device->live_objects(), 0U);
  }
}

TEST(a_file_that_changes_under_the_load_is_an_error) {
  for (const bool truncate : {true, false}) {
    for (const bool in_place : {true, false}) {
      const ScratchFile file(kBytes);
      std::latch gate(1);
      std::atomic<int> reads{0};
      // Reads the real file, and holds the third read back until the file has changed.
      class Gated final : public Source {
       public:
        Gated(std::shared_ptr<Source> inner, std::latch& gate, std::atomic<int>& reads)
            : inner_(std::move(inner)), gate_(gate), reads_(reads) {}
        const std::string& url() const noexcept override { return inner_->url(); }
        Status read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                    Route& route) noexcept override {
          if (++reads_ > 2) gate_.wait();
          return inner_->read(offset, nbytes, buffer, out, route);
        }
        Status read_in_place(std::uint64_t offset, std::span<const HostSpan> targets, bool& taken) noexcept override {
          if (++reads_ > 2) gate_.wait();
          return inner_->read_in_place(offset, targets, taken);
        }
        Status check_unchanged() noexcept override { return inner_->check_unchanged(); }

       private:
        std::shared_ptr<Source> inner_;
        std::latch& gate_;
        std::atomic<int>& reads_;
      };
      Load load(std::make_shared<HostDevice>(in_place ? HostDeviceOptions{} : poisoned()));
      REQUIRE(load.submit(std::make_shared<Gated>(file_source(file, false), gate, reads)).ok());
      if (truncate) {
        file.truncate(kGroupBytes / 2);
      } else {
        const ScratchFile other(kBytes);
        CHECK(::link(other.path().c_str(), (other.path() + ".spare").c_str()) == 0);
        CHECK(::rename((other.path() + ".spare").c_str(), file.path().c_str()) == 0);
      }
      gate.count_down();
      const Status status = load.wait_all();
      CHECK(status.code == (truncate ? Code::kShortRead : Code::kChanged) || status.code == Code::kChanged);
      CHECK_EQ(status.source, file.path());
      CHECK(!load.ticket->resident(0));
    }
  }
}

TEST(cancelling_wakes_waiters_and_outruns_a_slow_link) {
  HostDeviceOptions slow;
  slow.link_bytes_per_second = 1000;  // the load would take 16 minutes
  const auto device = std::make_shared<HostDevice>(slow);
  {
    Load load(device);
    REQUIRE(load.submit(pattern_source()).ok());
    std::jthread canceller([&] { load.ticket->cancel(); });
    CHECK(load.wait_group(kGroups - 1).code == Code::kCancelled);
    load.ticket->close();
    load.ticket->close();
    CHECK(load.wait_all().code == Code::kCancelled);
  }
  CHECK_EQ(device->live_objects(), 0U);
}

TEST(dropping_a_ticket_or_closing_its_engine_ends_its_threads) {
  const std::size_t before = count_entries("/proc/self/task");
  HostDeviceOptions slow;
  slow.link_bytes_per_second = 1000;
  for (const bool drop : {true, false}) {
    Load load(std::make_shared<HostDevice>(slow));
    REQUIRE(load.submit(pattern_source()).ok());
    if (drop) {
      load.ticket.reset();
    } else {
      load.engine->close();
      CHECK(load.wait_all().code == Code::kCancelled);
      std::shared_ptr<Ticket> late;
      CHECK(load.engine->submit(plan_to(load.memory.address), {pattern_source()}, {}, late).code == Code::kClosed);
    }
    load.ticket.reset();
    CHECK_EQ(count_entries("/proc/self/task"), before);
  }
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
  CopyEngine engine(device, {kChunk, 2 * kChunk, 2});
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

TEST(parse_plan_refuses_what_breaks_the_contract) {
  Plan plan;
  const std::vector<std::uint64_t> copies = {0, 0x1000, 10, 10, 0x2000, 5};
  const auto parse = [&](std::vector<std::uint64_t> reads) { return parse_plan(reads, copies, 2, 1, 100, plan); };
  CHECK(parse({0, 0, 15, 0, 0}).ok());
  CHECK_EQ(plan.nbytes, 15U);
  CHECK(!parse({1, 0, 15, 0, 0}).ok());                  // no such source
  CHECK(!parse({0, 0, 101, 0, 0}).ok());                 // larger than a chunk
  CHECK(!parse({0, 0, 0, 0, 0}).ok());                   // empty
  CHECK(!parse({0, 0, 15, 2, 0}).ok());                  // no such group
  CHECK(!parse({0, 0, 10, 1, 0, 0, 10, 5, 0, 1}).ok());  // groups out of order
  CHECK(!parse({0, 0, 14, 0, 0}).ok());                  // a copy leaves the read
  CHECK(!parse({0, 0, 15, 0, 1}).ok());                  // a copy left out
  CHECK(!parse({0, 0, 15, 0}).ok());                     // ends inside a step
  CHECK(!parse({0, 0, 10, 0, 0, 0, 10, 5, 0, 3}).ok());  // copies out of range
  CHECK(!parse_plan({}, copies, 2, 1, 100, plan).ok());  // copies without reads
}
