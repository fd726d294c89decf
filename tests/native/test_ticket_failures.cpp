// Where step k of a load fails, for every k: the Status, every waiter awake, every buffer back once.
#include "load_fixture.hpp"

using namespace streamload;

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
      CHECK_EQ(load.pool->ring().leased(), 0U);
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
          CHECK_EQ(load.pool->ring().leased(), 0U);
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
  for (const char* function : {"cuStreamCreate", "cuEventCreate", "cuEventRecord", "cuStreamWaitEvent",
                               "cuEventSynchronize", "cuMemcpyBatchAsync", "cuMemAlloc", "cuCtxSetCurrent",
                               "cuThreadExchangeStreamCaptureMode", "cuMemHostRegister"}) {
    int failures = 0;
    bool reached = true;
    for (std::uint64_t k = 0; reached; ++k) {
      standin().reset();
      Status status;
      bool correct = true;
      {
        const auto device = cuda();
        standin().fail(function, k, kCudaErrorUnknown);
        const std::uint64_t before = standin().calls(function);
        Load load(device);
        if (load.engine) {
          status = load.submit(pattern_source(), StreamView{});  // behind the default stream, so that it is waited for
          if (status.ok()) status = load.wait_all();
          if (load.ticket) load.ticket->close();
          CHECK_EQ(load.pool->ring().leased(), 0U);
          correct = !status.ok() || load.holds(0, kBytes);
        } else {
          status = Status::failure(Code::kDeviceFailed, "allocate");
        }
        reached = standin().calls(function) > before + k;
      }
      CHECK(correct);
      CHECK_EQ(standin().violation_text(), "0: ");
      CHECK_EQ(standin().live_text(), "0: ");
      failures += status.ok() ? 0 : 1;
    }
    // One buffer that cannot be pinned is one buffer fewer, unless it is the only one under way.
    CHECK(failures > 0 || std::string(function) == "cuMemHostRegister");
  }
}

TEST(a_load_that_can_pin_little_or_nothing_goes_on) {
  HostDeviceOptions options;
  options.fail_step = "pin";
  options.fail_from = true;
  for (std::uint64_t k = 0; k < 4; ++k) {
    options.fail_at = k;
    const auto device = std::make_shared<HostDevice>(options);
    {
      Load load(device);
      REQUIRE(load.submit(pattern_source()).ok());
      CHECK(load.wait_all().ok());
      CHECK(load.holds(0, kBytes));
      CHECK(load.pool->ring().pinned_bytes() <= k * kChunk);
      CHECK(!load.pool->ring().refusal().empty() || k > 0);  // a ring may do with fewer buffers than it could pin
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
        Status choose(std::uint64_t offset, std::size_t nbytes, Choice& out) noexcept override {
          return inner_->choose(offset, nbytes, out);
        }
        Status read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                    Choice& choice) noexcept override {
          if (++reads_ > 2) gate_.wait();
          return inner_->read(offset, nbytes, buffer, out, choice);
        }
        bool can_scatter() const noexcept override { return inner_->can_scatter(); }
        Status read_scattered(std::uint64_t offset, std::span<const HostSpan> targets) noexcept override {
          if (++reads_ > 2) gate_.wait();
          return inner_->read_scattered(offset, targets);
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
      // What was cut off is noticed by the read that misses it, or by the check behind the group, whichever is first.
      CHECK(status.code == Code::kChanged || (truncate && status.code == Code::kShortRead));
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

TEST(dropping_a_ticket_or_closing_its_engine_ends_the_load_and_the_last_user_its_threads) {
  const std::size_t before = count_entries("/proc/self/task");
  HostDeviceOptions slow;
  slow.link_bytes_per_second = 1000;
  for (const bool drop : {true, false}) {
    {
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
    }
    CHECK_EQ(count_entries("/proc/self/task"), before);
  }
}
