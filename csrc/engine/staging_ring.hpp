// A small ring of host buffers that devices copy out of, handed out as leases: one for all the loads of a process.
//
// Grown one buffer at a time by the reading thread that needs it, up to a cap, and only while reads are what holds
// the buffers up: making and pinning fresh memory costs 0.1–0.9 s/GiB, and a ring that outgrows L3 is read at memory
// speed instead. Buffers are pinned for a device when it first uses them. A refused registration leaves fewer
// buffers, or, where not even two could be pinned, unpinned ones, which copies take at lower speed.
//
// A lease returns itself when it is dropped, once. The ring outlives its leases and is safe to use from any thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/host_block.hpp"
#include "device/device.hpp"
#include "io/direct_reader.hpp"

namespace streamload {

class StagingRing : public std::enable_shared_from_this<StagingRing> {
  struct Slot;

 public:
  // A lease of one buffer. Dropping it returns the buffer: only after every copy out of it has completed.
  class Buffer {
   public:
    Buffer() noexcept;
    Buffer(Buffer&& other) noexcept;
    Buffer& operator=(Buffer&& other) noexcept;
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer();

    [[nodiscard]] explicit operator bool() const noexcept { return slot_ != nullptr; }
    [[nodiscard]] HostSpan bytes() const noexcept;
    // Told when the buffer waits for copies rather than for a read.
    void mark_copying() noexcept;
    // Makes the buffer one of the reader's fixed ones, once.
    void register_with(const std::shared_ptr<DirectReader>& reader) noexcept;

   private:
    friend class StagingRing;
    Buffer(std::shared_ptr<StagingRing> ring, std::unique_ptr<Slot> slot) noexcept;
    void give_back() noexcept;

    std::shared_ptr<StagingRing> ring_;
    std::unique_ptr<Slot> slot_;
    std::shared_ptr<std::atomic<std::size_t>> borrowed_;  // the borrower's count of its leases
    bool copying_ = false;
  };

  enum class Answer : std::uint8_t { kLent, kGrow, kNone };

  // `on_free` is called after a buffer has come back, on the thread that dropped it.
  StagingRing(std::size_t buffer_bytes, std::size_t capacity_bytes, std::function<void()> on_free);
  StagingRing(const StagingRing&) = delete;
  StagingRing& operator=(const StagingRing&) = delete;
  ~StagingRing();

  // Lends a free buffer, or allows the caller to make one by grow(), or has none now. Does not block. `needy`: the
  // borrower has too few to go on, so that the ring grows for it whatever it waits for.
  [[nodiscard]] Answer try_lend(bool needy, Buffer& out) noexcept;
  // Makes a buffer. Blocks for as long as the system takes. Leaves `out` empty where there is no memory but other
  // buffers are in use; fails where there is none at all.
  [[nodiscard]] Status grow(int numa_node, Buffer& out) noexcept;
  void give_up_growth() noexcept;          // instead of grow()
  void put_back(Buffer& unused) noexcept;  // a buffer just lent, telling nobody
  // Pins a lent buffer for a device and counts it to its borrower. Leaves `buffer` empty where the system pins no more
  // and the ring goes on with what it has.
  void prepare(Buffer& buffer, const std::shared_ptr<Device>& device,
               std::shared_ptr<std::atomic<std::size_t>> borrowed) noexcept;
  // Unpins and frees the buffers that nobody has.
  void release_idle() noexcept;

  [[nodiscard]] std::size_t buffer_bytes() const noexcept { return buffer_bytes_; }
  [[nodiscard]] std::size_t most() const noexcept;          // buffers it may grow to
  [[nodiscard]] std::size_t bytes() const noexcept;         // that exist now
  [[nodiscard]] std::size_t pinned_bytes() const noexcept;  // of them, page-locked for some device
  [[nodiscard]] std::size_t leased() const noexcept;        // buffers
  [[nodiscard]] std::string refusal() const;                // why memory is not pinned; empty where it all is

 private:
  const std::size_t buffer_bytes_;
  const std::size_t capacity_;  // buffers
  const std::function<void()> on_free_;

  mutable std::mutex mutex_;                 // guards everything below
  std::vector<std::unique_ptr<Slot>> free_;  // last in, first out: the warmest in cache goes next
  std::size_t most_;                         // lowered to what exists when growth fails, until idle memory is released
  std::size_t made_ = 0;                     // slots that exist, free or leased
  std::size_t making_ = 0;                   // slots being made right now
  std::size_t copying_ = 0;                  // leased slots that wait for copies
  std::size_t pinned_ = 0;                   // slots pinned for some device
  std::string refusal_;
};

}  // namespace streamload
