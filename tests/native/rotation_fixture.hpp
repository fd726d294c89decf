// What the rotation tests share: units of a recognisable source, slots, and a consumer that checks every byte it uses,
// on a host device at once, on the stand-in driver by work that it puts on a stream and looks at in the end.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <numeric>
#include <random>
#include <thread>

#include "engine/rotation.hpp"
#include "load_fixture.hpp"

namespace streamload {

inline constexpr std::uint32_t kMostUnits = 40;
inline constexpr std::uint32_t kMostSlots = 40;
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
inline constexpr std::uint32_t kPairStep = 5;  // everything takes ten times as long there
#else
inline constexpr std::uint32_t kPairStep = 1;
#endif
inline constexpr std::size_t kUnitBytes = 4096;
inline constexpr std::size_t kReadsPerUnit = 2;
inline constexpr std::size_t kUnitRead = kUnitBytes / kReadsPerUnit;

// The bytes of all units, one behind the other.
inline const std::vector<std::byte>& unit_bytes() {
  static const std::vector<std::byte> bytes = pattern(0, 64 * kUnitBytes);
  return bytes;
}

inline std::shared_ptr<Source> unit_source(std::function<Status(std::uint64_t)> before = {}) {
  return std::make_shared<CallbackSource>(
      "units:", [before = std::move(before)](std::uint64_t offset, HostSpan buffer, std::size_t& got) {
        if (before) {
          if (Status status = before(offset); !status.ok()) return status;
        }
        std::memcpy(buffer.data(), unit_bytes().data() + offset, buffer.size());
        got = buffer.size();
        return Status{};
      });
}

inline Plan unit_plan(std::uint32_t unit, std::uintptr_t slot, std::size_t nbytes = kUnitBytes,
                      std::size_t read_bytes = kUnitRead) {
  Plan plan;
  plan.group_count = 1;
  plan.nbytes = nbytes;
  for (std::size_t offset = 0; offset < nbytes; offset += read_bytes) {
    const std::size_t first = plan.copies.size();
    plan.reads.push_back({0, 0, unit * nbytes + offset, read_bytes, first, first + 2});
    plan.copies.push_back({0, slot + offset, 100});
    plan.copies.push_back({100, slot + offset + 100, read_bytes - 100});
  }
  return plan;
}

// No two neighbours of the endless sequence in one slot, wherever that can be: i % slots, with the last ones moved.
inline std::vector<std::uint32_t> spread(std::uint32_t units, std::uint32_t slots) {
  std::vector<std::uint32_t> slot_of(units);
  for (std::uint32_t i = 0; i < units; ++i) slot_of[i] = i % slots;
  if (units > 1 && slots > 2 && slot_of.back() == slot_of.front())
    slot_of.back() = 1;  // its neighbours: 0 and slots - 1
  return slot_of;
}

inline std::vector<std::uint32_t> straight(std::uint32_t units) {
  std::vector<std::uint32_t> order(units);
  std::iota(order.begin(), order.end(), 0U);
  return order;
}

struct Turn {
  std::shared_ptr<Device> device;
  std::shared_ptr<ReadPool> pool;
  std::vector<std::uint32_t> slot_of;
  DeviceSpan memory;
  std::shared_ptr<Rotation> rotation;
  Status started;

  struct Terms {
    std::uint32_t slots = 2;
    std::vector<std::uint32_t> slot_of;
    std::vector<std::uint32_t> order;
    std::shared_ptr<Source> source;
    std::uint64_t debug_seed = 1;
    Breach breach = Breach::kNone;
    std::optional<StreamView> after{};
  };

  Turn(std::shared_ptr<Device> target, std::shared_ptr<ReadPool> readers, Terms terms)
      : device(std::move(target)), pool(std::move(readers)), slot_of(terms.slot_of) {
    started = device->allocate(terms.slots * kUnitBytes, memory);
    if (!started.ok()) return;
    Rotation::Setup setup;
    for (std::uint32_t i = 0; i < slot_of.size(); ++i) setup.units.push_back(unit_plan(i, slot(i).address));
    setup.slot_of = slot_of;
    for (std::size_t i = 0; i < terms.slots; ++i) setup.slots.push_back(memory.subspan(i * kUnitBytes, kUnitBytes));
    setup.order = std::move(terms.order);
    setup.sources = {terms.source ? std::move(terms.source) : unit_source()};
    setup.after = terms.after;
    setup.debug_seed = terms.debug_seed;
    setup.breach = terms.breach;
    started = Rotation::start(device, pool, std::move(setup), rotation);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;
  ~Turn() {
    if (rotation) rotation->close();
    rotation.reset();
    pool.reset();
    if (!memory.empty()) device->deallocate(memory);
  }

  [[nodiscard]] DeviceSpan slot(std::uint32_t unit) const {
    return memory.subspan(slot_of[unit] * kUnitBytes, kUnitBytes);
  }
  [[nodiscard]] const std::byte* bytes(std::uint32_t unit) const {
    return reinterpret_cast<const std::byte*>(slot(unit).address);  // NOLINT(performance-no-int-to-ptr)
  }
  [[nodiscard]] bool right(std::uint32_t unit) const {
    return std::memcmp(bytes(unit), unit_bytes().data() + unit * kUnitBytes, kUnitBytes) == 0;
  }
  Status acquire(std::uint32_t unit, std::optional<StreamView> stream = {}) const {
    Rotation::Want want;
    Status status = rotation->want(unit, want);
    bool ready = false;
    if (status.ok()) status = rotation->acquire(want, stream, kPatience, ready);
    CHECK(ready || !status.ok());
    return status;
  }
  Status release(std::uint32_t unit, std::optional<StreamView> stream = {}) const {
    return rotation->release(unit, stream);
  }
};

// Uses units, on a host device: reads them while it holds them.
struct HostConsumer {
  const Turn& turn;
  std::function<void()> compute = [] {};
  std::size_t wrong = 0;

  Status use(std::uint32_t unit) {
    if (Status status = turn.acquire(unit); !status.ok()) return status;
    wrong += turn.right(unit) ? 0 : 1;
    compute();
    wrong += turn.right(unit) ? 0 : 1;
    return turn.release(unit);
  }
  void finish() const { CHECK_EQ(wrong, 0U); }
};

// Uses units on a stream of a device that does not wait on the host: work that copies them away runs when the stream
// comes to it, long after they are released.
class StreamConsumer {
 public:
  StreamConsumer(const Turn& turn, std::size_t uses) : turn_(turn), most_(uses) {
    CHECK(turn.device->allocate(uses * kUnitBytes, results_).ok());
    // The stand-in reads a source in stream order only where it is pinned.
    CHECK(turn.device->pin(slots()).ok());
    CHECK(Stream::make(turn.device, stream_).ok());
    CHECK(Event::make(turn.device, done_).ok());
  }
  StreamConsumer(const StreamConsumer&) = delete;
  StreamConsumer& operator=(const StreamConsumer&) = delete;
  ~StreamConsumer() {
    stream_.reset();
    turn_.device->unpin(slots());
    turn_.device->deallocate(results_);
  }

  Status use(std::uint32_t unit) {
    REQUIRE(used_.size() < most_);
    if (Status status = turn_.acquire(unit, stream_.view()); !status.ok()) return status;
    const DeviceSpan result = results_.subspan(used_.size() * kUnitBytes, kUnitBytes);
    used_.push_back(unit);
    Status status = turn_.device->copy(result, {turn_.bytes(unit), kUnitBytes}, stream_.view());
    Status released = turn_.release(unit, stream_.view());
    return status.ok() ? released : status;
  }
  void finish() { CHECK_EQ(wrong(), 0U); }
  // How many of the results are not right, when all have come.
  [[nodiscard]] std::size_t wrong() {
    REQUIRE(turn_.device->record(done_.view(), stream_.view()).ok());
    REQUIRE(turn_.device->synchronize(done_.view()).ok());
    std::vector<std::byte> got(used_.size() * kUnitBytes);
    REQUIRE(turn_.device->read_back(got, results_.subspan(0, got.size())).ok());
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < used_.size(); ++i) {
      wrong += std::memcmp(got.data() + i * kUnitBytes, unit_bytes().data() + used_[i] * kUnitBytes, kUnitBytes) != 0;
    }
    return wrong;
  }
  [[nodiscard]] StreamView stream() const noexcept { return stream_.view(); }

 private:
  [[nodiscard]] HostSpan slots() const {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): the stand-in's device memory is host memory
    return {reinterpret_cast<std::byte*>(turn_.memory.address), turn_.memory.nbytes};
  }

  const Turn& turn_;
  const std::size_t most_;
  DeviceSpan results_;
  Stream stream_;
  Event done_;
  std::vector<std::uint32_t> used_;
};

inline std::shared_ptr<ReadPool> readers(std::size_t threads = 2, std::size_t buffers = 8) {
  return std::make_shared<ReadPool>(ReadPoolOptions{kUnitBytes, buffers * kUnitBytes, threads});
}

// Takes time, as compute does; nothing is ordered by it.
inline void pause(std::minstd_rand& random, unsigned most_microseconds) {
  std::mutex mutex;
  std::unique_lock lock(mutex);
  std::condition_variable never;
  never.wait_for(lock, std::chrono::microseconds(random() % most_microseconds), [] { return false; });
}

}  // namespace streamload
