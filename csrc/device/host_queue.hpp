// What a host device's streams and events are made of: a queue with a thread, marks in it, and the link they share.
// Used by HostDevice alone.
//
// Thread-safe. A queue runs copies, records and waits in the order they were pushed.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <random>
#include <span>
#include <thread>
#include <variant>
#include <vector>

#include "device/device.hpp"

namespace streamload {

using HostClock = std::chrono::steady_clock;

// One event: how often it was recorded and how far the records have completed.
class HostMark {
 public:
  std::uint64_t record() noexcept;
  [[nodiscard]] std::uint64_t recorded() const noexcept;
  void complete(std::uint64_t generation) noexcept;
  [[nodiscard]] bool done() const noexcept;
  // Returns when a record was last completed; that is no earlier than this one was.
  HostClock::time_point wait(std::uint64_t generation) noexcept;

 private:
  mutable std::mutex mutex_;  // guards all below
  std::condition_variable changed_;
  std::uint64_t recorded_ = 0;
  std::uint64_t completed_ = 0;
  HostClock::time_point completed_at_{};
};

// The one path to the device, however many streams.
class HostLink {
 public:
  explicit HostLink(double bytes_per_second) noexcept : bytes_per_second_(bytes_per_second) {}
  [[nodiscard]] bool paced() const noexcept { return bytes_per_second_ > 0; }
  // Books the link for nbytes that could cross it from `ready` on, and says when they have. `ready` may be past: a
  // thread that woke late does not make the link slower.
  [[nodiscard]] HostClock::time_point book(std::size_t nbytes, HostClock::time_point ready) noexcept;

 private:
  const double bytes_per_second_;
  std::mutex mutex_;  // guards free_at_
  HostClock::time_point free_at_{};
};

// Fills memory as Device::poison says.
void poison_memory(DeviceSpan memory) noexcept;

// One stream.
class HostQueue {
 public:
  // `seed` as in HostDeviceOptions.
  HostQueue(std::shared_ptr<HostLink> link, std::uint64_t seed);
  ~HostQueue();
  HostQueue(const HostQueue&) = delete;
  HostQueue& operator=(const HostQueue&) = delete;

  void push_copies(std::span<const CopyBlock> blocks);
  void push_poison(DeviceSpan memory);
  // Completes, or waits for, this record of the mark.
  void push_record(std::shared_ptr<HostMark> mark, std::uint64_t generation);
  void push_wait(std::shared_ptr<HostMark> mark, std::uint64_t generation);
  // Runs the rest without delay.
  void expedite() noexcept;

 private:
  struct CopyTask {  // [first, last) in the blocks of its batch
    std::size_t first;
    std::size_t last;
    HostClock::time_point pushed_at;
  };
  struct MarkTask {
    std::shared_ptr<HostMark> mark;
    std::uint64_t generation;
    bool completes;  // a record completes its mark, a wait waits for it
  };
  struct PoisonTask {
    DeviceSpan memory;
  };
  // What was pushed since the worker last looked. The queue and the worker swap theirs, so that both keep their memory.
  struct Batch {
    std::vector<std::variant<CopyTask, MarkTask, PoisonTask>> tasks;
    std::vector<CopyBlock> blocks;
  };

  template <class Add>
  void push(Add&& add);
  void run(const std::stop_token& stop) noexcept;
  void run(const Batch& batch) noexcept;
  void execute(std::span<const CopyBlock> blocks, HostClock::time_point pushed_at) noexcept;
  void pause_until(HostClock::time_point when) noexcept;

  const std::shared_ptr<HostLink> link_;
  const bool delays_;
  // Used by the worker only.
  std::minstd_rand random_;
  HostClock::time_point reached_{};  // when what came before had happened, however late the worker saw it

  std::mutex mutex_;  // guards pushed_ and expedited_
  std::condition_variable_any changed_;
  Batch pushed_;
  bool expedited_ = false;

  std::jthread worker_;  // last: it uses everything above
};

}  // namespace streamload
