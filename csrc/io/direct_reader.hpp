// File reads around the page cache, many in flight, through one io_uring; a thread of its own submits and reaps.
//
// One thread talks to the ring, whoever asks: completions then interrupt nobody else, and one system call both submits
// what is new and waits for what is under way.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <thread>
#include <vector>

#include "core/spans.hpp"
#include "core/status.hpp"
#include "core/unique_fd.hpp"
#include "io/depth_control.hpp"
#include "io/io_uring.hpp"

namespace streamload {

class DirectReader {
 public:
  // Told the bytes read (fewer than asked for is possible) or -errno: once per request, on the reading thread. Has
  // small captures, never throws, and may submit more; until it returns nothing else is reaped.
  using Done = std::function<void(std::int64_t result)>;

  struct Request {
    int fd = -1;  // open until done, without O_NONBLOCK
    std::uint64_t offset = 0;
    HostSpan target;
    Done done;
    std::span<const iovec> parts{};  // in place of `target`, where there are any; the caller's until done
  };

  // Fails with kReadFailed, and says why, where the kernel, a seccomp filter, a sysctl or a limit refuses io_uring.
  [[nodiscard]] static Status make(std::size_t most_in_flight, std::unique_ptr<DirectReader>& out) noexcept;

  DirectReader(std::size_t most_in_flight, std::unique_ptr<IoUring> ring, UniqueFd wake);
  DirectReader(const DirectReader&) = delete;
  DirectReader& operator=(const DirectReader&) = delete;
  ~DirectReader();  // waits until every request is done. Not on the reading thread

  // From any thread; never waits for I/O. What goes beyond the depth waits inside, in order.
  void submit(Request request) noexcept;

  // How many reads are worth having in flight now.
  [[nodiscard]] std::size_t depth() const noexcept;
  // Whether a request would be started at once.
  [[nodiscard]] bool has_room() const noexcept;

  // Whether the kernel has begun to refuse the ring. Requests are then given back as -ECANCELED; nothing will come of
  // others.
  [[nodiscard]] bool broken() const noexcept { return broken_; }

  // Has the kernel pin this memory once, so that reads into it need no page walk. Where it will not (the limit of
  // locked memory, an old kernel) reads into it stay plain. Blocks for the pinning.
  void add_memory(HostSpan memory) noexcept;
  // Undoes it, before the memory goes. Nothing is in flight there.
  void drop_memory(HostSpan memory) noexcept;

 private:
  struct Fixed {
    HostSpan bytes;
    IoUring::FixedSlot slot;
  };

  void run() noexcept;
  [[nodiscard]] bool start_waiting() noexcept;
  void wake() noexcept;
  void rest() noexcept;
  void finish(IoUring::Tag tag, std::int64_t result) noexcept;
  [[nodiscard]] std::optional<IoUring::FixedSlot> slot_of(HostSpan target) const noexcept;

  const std::unique_ptr<IoUring> ring_;  // queues: the reading thread's
  const UniqueFd wake_;                  // an eventfd that the ring reads: how others interrupt its waiting
  std::uint64_t wake_count_ = 0;         // where that read goes
  bool armed_ = false;                   // that read is in flight; the reading thread's
  int refusals_ = 0;                     // by the kernel, in a row; the reading thread's
  std::atomic<bool> broken_{false};

  mutable std::mutex mutex_;  // guards everything below
  DepthControl control_;
  std::deque<Request> waiting_;
  std::vector<Done> in_flight_;           // by tag
  std::vector<std::uint32_t> free_tags_;  // the others
  std::vector<Fixed> fixed_;
  std::vector<IoUring::FixedSlot> free_slots_;
  bool asleep_ = false;  // the reading thread has looked for requests, and will not again before it is woken
  bool stopping_ = false;

  std::jthread thread_;
};

}  // namespace streamload
