// One small interface to the place weights go: ordered streams, events, copies, pinned host memory.
//
// Two residents: CudaDevice (driver loaded at run time) and HostDevice (CPU threads over host memory, with a
// paced link and faults on demand). Every call may be made from any thread. Nothing here throws; a failed call
// says so in its Status or leaves the handle empty. Handles are borrowed views; Stream and Event below own them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/spans.hpp"
#include "core/status.hpp"

namespace streamload {

// Borrowed handles. A StreamView may also wrap a caller's own stream (torch's current stream); 0 is the
// device's default stream, as in CUDA.
struct StreamView {
  std::uintptr_t handle = 0;
};
struct EventView {
  std::uintptr_t handle = 0;
};

// A rectangle of bytes: `rows` rows of `row_bytes`; on each side a row begins `pitch` bytes after the one before,
// and a pitch is no less than a row. A plain range is one row, whose pitches do not matter.
struct CopyBlock {
  std::uintptr_t target = 0;
  std::size_t target_pitch = 0;
  const std::byte* source = nullptr;
  std::size_t source_pitch = 0;
  std::size_t row_bytes = 0;
  std::size_t rows = 1;

  [[nodiscard]] constexpr std::size_t nbytes() const noexcept { return row_bytes * rows; }
};

class Device {
 public:
  virtual ~Device() = default;
  Device() = default;
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  [[nodiscard]] virtual std::string name() const = 0;  // "host", "cuda:0"

  // True where device addresses are host addresses that a reader may fill itself, with no copy and no queue.
  [[nodiscard]] virtual bool fills_in_place() const noexcept = 0;

  // True where a consumer on this device runs on the host's own threads, so that waiting for a group means
  // waiting for its bytes, not for the order of two queues.
  [[nodiscard]] virtual bool waits_on_host() const noexcept = 0;

  // Prepares the calling thread to talk to the device (on CUDA: its context becomes current). Once a thread.
  [[nodiscard]] virtual Status enter_thread() noexcept = 0;

  [[nodiscard]] virtual Status create_stream(StreamView& out) noexcept = 0;
  virtual void destroy_stream(StreamView stream) noexcept = 0;  // waits for what is queued
  // Finishes what is queued without simulated delay; real hardware ignores it. For cancelled loads.
  virtual void expedite(StreamView stream) noexcept = 0;
  virtual void drain(StreamView stream) noexcept = 0;  // waits for what is queued; a failure of it is told elsewhere

  [[nodiscard]] virtual Status create_event(EventView& out) noexcept = 0;
  virtual void destroy_event(EventView event) noexcept = 0;
  [[nodiscard]] virtual Status record(EventView event, StreamView stream) noexcept = 0;
  // Makes all later work of `stream` wait for `event`, which must have been recorded: waiting on an event that
  // was never recorded is a silent no-op in CUDA (Driver API, cuStreamWaitEvent).
  [[nodiscard]] virtual Status wait(StreamView stream, EventView event) noexcept = 0;
  // Sets `done` without blocking.
  [[nodiscard]] virtual Status query(EventView event, bool& done) noexcept = 0;
  // Blocks the calling thread until the recorded event completes.
  [[nodiscard]] virtual Status synchronize(EventView event) noexcept = 0;

  // Enqueues copies of host bytes to the device, behind all earlier work of `stream`. The sources must stay valid
  // until an event recorded later on `stream` completes. Targets must not overlap: among themselves the blocks of one
  // call have no order. Asynchronous only where the sources lie in pinned memory. After a failure any of the blocks
  // may be under way.
  [[nodiscard]] virtual Status copy_blocks(std::span<const CopyBlock> blocks, StreamView stream) noexcept = 0;
  // One plain range.
  [[nodiscard]] Status copy(DeviceSpan target, ConstHostSpan source, StreamView stream) noexcept;

  // Fills device memory with 0xFF, a NaN in every format of floating point, behind all earlier work of `stream`.
  [[nodiscard]] virtual Status poison(DeviceSpan memory, StreamView stream) noexcept = 0;

  // Page-locks host memory for fast copies. Undone by unpin with the same span.
  [[nodiscard]] virtual Status pin(HostSpan memory) noexcept = 0;
  virtual void unpin(HostSpan memory) noexcept = 0;
  // Devices that answer the same share their page-locking: memory that one of them pinned is pinned for all.
  [[nodiscard]] virtual std::uintptr_t pin_domain() const noexcept = 0;
  // The NUMA node whose memory is nearest to the device; -1 where nobody says.
  [[nodiscard]] virtual int numa_node() const noexcept { return -1; }
  // Told when a staging buffer is free again; a debugging device overwrites it, so that a late reader shows.
  virtual void scrub(HostSpan memory) noexcept { static_cast<void>(memory); }

  // Device memory without torch: link measurements and tests. Weights live in memory the caller owns.
  [[nodiscard]] virtual Status allocate(std::size_t nbytes, DeviceSpan& out) noexcept = 0;
  virtual void deallocate(DeviceSpan memory) noexcept = 0;
  // Blocking copy back to the host, for tests and `verify`.
  [[nodiscard]] virtual Status read_back(HostSpan target, DeviceSpan source) noexcept = 0;

  // Times `repeats` copies of `nbytes` from pinned, already touched host memory to the device, one after another,
  // behind one untimed copy: the ceiling that loads are measured against. Blocks; holds `nbytes` on both sides.
  [[nodiscard]] virtual Status measure_link(std::size_t nbytes, int repeats, std::vector<double>& seconds) = 0;

  // Times `repeats` rounds of copying the blocks, by the host's clock from the first call of a round until an event
  // behind its last one is seen to complete; `blocks_per_call` at a time, 0 for all at once. No blocks at all: what an
  // event costs. On a stream of its own; blocks.
  [[nodiscard]] Status time_copies(std::span<const CopyBlock> blocks, std::size_t blocks_per_call, int repeats,
                                   std::vector<double>& seconds);

 private:
  [[nodiscard]] Status copy_and_wait(std::span<const CopyBlock> blocks, std::size_t blocks_per_call, StreamView stream,
                                     EventView event);
};

// Owner of one stream or event: move-only, destroys its handle, keeps the device alive until then.
template <class View, Status (Device::*Create)(View&) noexcept, void (Device::*Destroy)(View) noexcept>
class Owned {
 public:
  Owned() noexcept = default;
  [[nodiscard]] static Status make(const std::shared_ptr<Device>& device, Owned& out) noexcept {
    View view;
    Status status = (device.get()->*Create)(view);
    if (status.ok()) out = Owned(device, view);
    return status;
  }
  Owned(Owned&& other) noexcept : device_(std::move(other.device_)), view_(std::exchange(other.view_, View{})) {}
  Owned& operator=(Owned&& other) noexcept {
    if (this != &other) {
      reset();
      device_ = std::move(other.device_);
      view_ = std::exchange(other.view_, View{});
    }
    return *this;
  }
  Owned(const Owned&) = delete;
  Owned& operator=(const Owned&) = delete;
  ~Owned() { reset(); }

  [[nodiscard]] View view() const noexcept { return view_; }
  [[nodiscard]] explicit operator bool() const noexcept { return device_ != nullptr; }
  void reset() noexcept {
    if (device_) (device_.get()->*Destroy)(view_);
    device_.reset();
    view_ = View{};
  }

 private:
  Owned(std::shared_ptr<Device> device, View view) noexcept : device_(std::move(device)), view_(view) {}

  std::shared_ptr<Device> device_;
  View view_;
};

using Stream = Owned<StreamView, &Device::create_stream, &Device::destroy_stream>;
using Event = Owned<EventView, &Device::create_event, &Device::destroy_event>;

}  // namespace streamload
