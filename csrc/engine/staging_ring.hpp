// A small ring of pinned host buffers, handed out as leases.
//
// Grown one buffer at a time, by the thread that needs it, up to a cap: making and pinning fresh memory costs
// 0.1–0.9 s/GiB, so none is made that a load does not use. A lease returns itself when it is dropped, once. The
// ring outlives its leases (they hold it) and is safe to use from any thread.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <memory>
#include <mutex>
#include <stop_token>
#include <vector>

#include "device/device.hpp"

namespace streamload {

// Page-aligned memory on huge pages where the system grants them, pinned for the device while it lives.
class PinnedBlock {
 public:
  PinnedBlock() noexcept = default;
  [[nodiscard]] static Status make(const std::shared_ptr<Device>& device, std::size_t nbytes,
                                   PinnedBlock& out) noexcept;
  PinnedBlock(PinnedBlock&& other) noexcept;
  PinnedBlock& operator=(PinnedBlock&& other) noexcept;
  PinnedBlock(const PinnedBlock&) = delete;
  PinnedBlock& operator=(const PinnedBlock&) = delete;
  ~PinnedBlock();

  [[nodiscard]] HostSpan bytes() const noexcept { return bytes_; }

 private:
  std::shared_ptr<Device> device_;  // set while pinned
  HostSpan bytes_;
};

class StagingRing : public std::enable_shared_from_this<StagingRing> {
  struct Slot {
    PinnedBlock block;
    Event landed;  // recorded behind the copies out of this buffer
  };

 public:
  // A lease of one buffer. Dropping it returns the buffer: only after every copy out of it has completed.
  class Buffer {
   public:
    Buffer() noexcept = default;
    Buffer(Buffer&& other) noexcept = default;
    Buffer& operator=(Buffer&& other) noexcept;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { give_back(); }

    [[nodiscard]] explicit operator bool() const noexcept { return slot_ != nullptr; }
    [[nodiscard]] HostSpan bytes() const noexcept { return slot_->block.bytes(); }
    [[nodiscard]] EventView landed() const noexcept { return slot_->landed.view(); }

   private:
    friend class StagingRing;
    Buffer(std::shared_ptr<StagingRing> ring, std::unique_ptr<Slot> slot) noexcept
        : ring_(std::move(ring)), slot_(std::move(slot)) {}
    void give_back() noexcept;

    std::shared_ptr<StagingRing> ring_;
    std::unique_ptr<Slot> slot_;
  };

  StagingRing(std::shared_ptr<Device> device, std::size_t buffer_bytes, std::size_t capacity_bytes)
      : device_(std::move(device)), buffer_bytes_(buffer_bytes), most_(capacity_bytes / buffer_bytes) {}
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;
  ~StagingRing() = default;

  // Blocks until a buffer is free. Fails with kCancelled when `stop` is requested, and with the device's own
  // Status when not a single buffer could be made; with fewer than the cap it goes on.
  [[nodiscard]] Status lease(const std::stop_token& stop, Buffer& out) noexcept;

  [[nodiscard]] std::size_t buffer_bytes() const noexcept { return buffer_bytes_; }
  [[nodiscard]] std::size_t pinned_bytes() const noexcept;  // now
  [[nodiscard]] std::size_t leased() const noexcept;

 private:
  [[nodiscard]] Status make_slot(std::unique_ptr<Slot>& out) noexcept;

  const std::shared_ptr<Device> device_;
  const std::size_t buffer_bytes_;

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable_any changed_;
  std::vector<std::unique_ptr<Slot>> free_;  // last in, first out: the warmest in cache goes next
  std::size_t most_;                         // lowered to what exists when growth fails
  std::size_t made_ = 0;                     // slots that exist, free or leased
  std::size_t making_ = 0;                   // slots being made right now
};

}  // namespace streamload
