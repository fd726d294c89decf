// What the ticket tests share: a plan over a recognisable file, sources that block or fail on demand, and a load on
// any device, held to account when it ends.
#pragma once

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

namespace streamload {

inline constexpr std::size_t kChunk = 64 << 10;
inline constexpr std::uint32_t kGroups = 5;
inline constexpr std::size_t kReadsPerGroup = 3;
inline constexpr std::size_t kTail =
    100;  // the last read of a group is this much shorter, so that reads are misaligned
inline constexpr std::size_t kGroupBytes = kReadsPerGroup * kChunk - kTail;
inline constexpr std::size_t kBytes = kGroups * kGroupBytes;
inline constexpr auto kPatience = std::chrono::seconds(30);  // only a hang takes this long

inline constexpr std::size_t bytes_in(std::size_t chunk) { return kGroups * (kReadsPerGroup * chunk - kTail); }

// A plan of kGroups groups that moves a whole file of bytes_in(chunk) to `target`, two copies a read.
inline Plan plan_to(std::uintptr_t target, std::size_t chunk = kChunk) {
  Plan plan;
  plan.group_count = kGroups;
  plan.nbytes = bytes_in(chunk);
  std::size_t offset = 0;
  for (std::uint32_t group = 0; group < kGroups; ++group) {
    for (std::size_t i = 0; i < kReadsPerGroup; ++i) {
      const std::size_t nbytes = i + 1 == kReadsPerGroup ? chunk - kTail : chunk;
      plan.reads.push_back({0, group, offset, nbytes, plan.copies.size(), plan.copies.size() + 2});
      plan.copies.push_back({0, target + offset, 1000});
      plan.copies.push_back({1000, target + offset + 1000, nbytes - 1000});
      offset += nbytes;
    }
  }
  return plan;
}

struct Load {
  std::shared_ptr<Device> device;
  DeviceSpan memory;
  std::shared_ptr<ReadPool> pool;
  std::shared_ptr<CopyEngine> engine;
  std::shared_ptr<Ticket> ticket;

  Load(std::shared_ptr<Device> target, std::size_t threads = 2, std::size_t buffers = 4) : device(std::move(target)) {
    if (!device->allocate(kBytes, memory).ok()) return;
    pool = std::make_shared<ReadPool>(ReadPoolOptions{kChunk, buffers * kChunk, threads});
    engine = std::make_shared<CopyEngine>(device, pool);
  }
  Load(const Load&) = delete;
  Load& operator=(const Load&) = delete;
  ~Load() {
    if (ticket) ticket->close();
    ticket.reset();
    engine.reset();
    pool.reset();
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

inline std::shared_ptr<Source> file_source(const ScratchFile& file, std::optional<bool> direct = {}) {
  std::shared_ptr<Source> source;
  throw_if_error(FileSource::open(file.path(), file.stamp(), direct, source));
  return source;
}

// Serves the pattern; before each read `before(call, offset)` may block or fail it.
inline std::shared_ptr<Source> pattern_source(std::function<Status(std::uint64_t, std::uint64_t)> before) {
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
inline std::shared_ptr<Source> pattern_source() {
  return pattern_source([](std::uint64_t, std::uint64_t) { return Status{}; });
}

inline HostDeviceOptions poisoned() {
  HostDeviceOptions options;
  options.poison = true;
  options.seed = 11;
  return options;
}

inline Standin& standin() {
  static Standin controls = open_standin(STREAMLOAD_STANDIN_PATH);
  return controls;
}

inline std::shared_ptr<Device> cuda() {
  std::shared_ptr<CudaDevice> device;
  throw_if_error(CudaDevice::make(0, STREAMLOAD_STANDIN_PATH, device));
  return device;
}

// Runs `body` against a fresh stand-in and holds it to account afterwards.
inline void on_standin(const std::function<void()>& body) {
  standin().reset();
  body();
  CHECK_EQ(standin().violation_text(), "0: ");
  CHECK_EQ(standin().live_text(), "0: ");
}

}  // namespace streamload
