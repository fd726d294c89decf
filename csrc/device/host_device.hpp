// A device made of CPU threads and host memory: the same ordered queues, events and failures as CUDA, testable
// anywhere. Can pace its link, fail call k of a step, delay at random and overwrite released staging memory.
//
// Thread-safe. Each stream is one thread that runs its queue in order; events follow CUDA's rules (a wait takes
// the latest record made before it; an event never recorded counts as complete).
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>

#include "core/touched_memory.hpp"
#include "device/device.hpp"
#include "device/host_queue.hpp"

namespace streamload {

struct HostDeviceOptions {
  double link_bytes_per_second = 0;  // 0: as fast as memory
  std::string fail_step;             // a Device method's name ("record", …; "copy": copy_blocks); empty: none
  std::uint64_t fail_at = 0;         // which call of that step fails, counted from 0
  bool fail_from = false;            // that call and every later one
  bool poison = false;               // overwrite released staging memory and freed device memory with 0xA5
  std::uint64_t seed = 0;            // not 0: random delays of up to 200 µs before each queued operation
  bool staged = false;               // bytes travel as if something were simulated, though nothing is
};

class HostDevice final : public Device {
 public:
  explicit HostDevice(HostDeviceOptions options);
  ~HostDevice() override;

  [[nodiscard]] std::string name() const override { return "host"; }
  // Only the plain device: anything simulated travels through the ring and the queue, as it would on CUDA.
  [[nodiscard]] bool fills_in_place() const noexcept override { return !simulated_; }
  [[nodiscard]] bool waits_on_host() const noexcept override { return true; }
  [[nodiscard]] Status enter_thread() noexcept override { return {}; }

  [[nodiscard]] Status create_stream(StreamView& out) noexcept override;
  void destroy_stream(StreamView stream) noexcept override;
  void expedite(StreamView stream) noexcept override;
  void drain(StreamView stream) noexcept override;

  [[nodiscard]] Status create_event(EventView& out) noexcept override;
  void destroy_event(EventView event) noexcept override;
  [[nodiscard]] Status record(EventView event, StreamView stream) noexcept override;
  // Stream 0 is the calling thread itself: the wait blocks it.
  [[nodiscard]] Status wait(StreamView stream, EventView event) noexcept override;
  [[nodiscard]] Status query(EventView event, bool& done) noexcept override;
  [[nodiscard]] Status synchronize(EventView event) noexcept override;

  [[nodiscard]] Status copy_blocks(std::span<const CopyBlock> blocks, StreamView stream) noexcept override;
  // Stream 0 is the calling thread itself.
  [[nodiscard]] Status poison(DeviceSpan memory, StreamView stream) noexcept override;

  [[nodiscard]] Status pin(HostSpan memory) noexcept override;
  void unpin(HostSpan memory) noexcept override;
  [[nodiscard]] std::uintptr_t pin_domain() const noexcept override { return reinterpret_cast<std::uintptr_t>(this); }
  void scrub(HostSpan memory) noexcept override;

  [[nodiscard]] Status allocate(std::size_t nbytes, DeviceSpan& out) noexcept override;
  void deallocate(DeviceSpan memory) noexcept override;
  [[nodiscard]] Status read_back(HostSpan target, DeviceSpan source) noexcept override;

  [[nodiscard]] Status measure_link(std::size_t nbytes, int repeats, std::vector<double>& seconds) override;

  // What is alive now, for tests: streams + events + pinned ranges + allocations.
  [[nodiscard]] std::size_t live_objects() const noexcept;

 private:
  [[nodiscard]] bool fails(const char* step) noexcept;
  [[nodiscard]] std::shared_ptr<HostQueue> find(StreamView stream) const noexcept;
  [[nodiscard]] std::shared_ptr<HostMark> find(EventView event) const noexcept;

  const HostDeviceOptions options_;
  const bool simulated_;
  std::atomic<std::uint64_t> calls_of_fail_step_{0};

  std::shared_ptr<HostLink> link_;  // shared by the queues

  mutable std::mutex mutex_;  // guards the four members below
  std::uintptr_t next_handle_ = 1;
  std::unordered_map<std::uintptr_t, std::shared_ptr<HostQueue>> queues_;
  std::unordered_map<std::uintptr_t, std::shared_ptr<HostMark>> marks_;
  std::unordered_map<std::uintptr_t, TouchedMemory> allocations_;
  std::size_t pinned_ranges_ = 0;
};

}  // namespace streamload
