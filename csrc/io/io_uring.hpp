// One io_uring, by raw system calls (linux/io_uring.h): its memory, its two queues, its table of fixed buffers.
//
// One thread pushes, enters and pops; the table of fixed buffers may be changed by any. Whoever pushes sees to it that
// no more entries are under way than the ring was made for.
#pragma once

#include <linux/io_uring.h>
#include <sys/uio.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "core/spans.hpp"
#include "core/status.hpp"
#include "core/unique_fd.hpp"

namespace streamload {

class IoUring {
 public:
  using Tag = std::uint64_t;
  using FixedSlot = std::uint16_t;

  struct Completion {
    Tag tag;
    std::int32_t result;  // bytes, or -errno
  };

  static constexpr FixedSlot kFixedSlots = 1024;

  // Fails with kReadFailed, and says why, where the kernel, a seccomp filter, a sysctl or a limit refuses.
  [[nodiscard]] static Status make(std::uint32_t entries, std::unique_ptr<IoUring>& out) noexcept;

  IoUring() noexcept = default;
  IoUring(const IoUring&) = delete;
  IoUring& operator=(const IoUring&) = delete;
  ~IoUring() = default;

  // Puts a read into the submission queue. With `slot`, the target lies inside that fixed buffer.
  void push_read(int fd, std::uint64_t offset, HostSpan target, std::optional<FixedSlot> slot, Tag tag) noexcept;
  // The same into several parts, in order, which are there until it has completed.
  void push_scattered(int fd, std::uint64_t offset, std::span<const iovec> parts, Tag tag) noexcept;

  // Hands what was pushed to the kernel and waits until something has completed. 0, or the errno of the call; then
  // what the kernel has not taken is still pending.
  [[nodiscard]] int submit_and_wait() noexcept;

  // Takes the last pushed entry back that the kernel has not seen; nothing where there is none.
  [[nodiscard]] std::optional<Tag> take_back() noexcept;

  [[nodiscard]] std::optional<Completion> pop() noexcept;

  // Makes `memory` (1 GiB at most) the fixed buffer of that slot, or empties the slot. The kernel pins it; false where
  // it will not.
  [[nodiscard]] bool fix(FixedSlot slot, HostSpan memory) noexcept;

 private:
  class Mapping {
   public:
    Mapping() noexcept = default;
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    ~Mapping();

    [[nodiscard]] bool map(int fd, std::size_t nbytes, std::uint64_t place) noexcept;
    template <class T>
    [[nodiscard]] T* at(std::size_t offset) const noexcept {
      return reinterpret_cast<T*>(bytes_.data() + offset);
    }

   private:
    HostSpan bytes_;
  };

  [[nodiscard]] Status set_up(std::uint32_t entries) noexcept;
  void push(const io_uring_sqe& entry) noexcept;
  [[nodiscard]] std::uint32_t pending() const noexcept;

  Mapping rings_;
  Mapping entries_;
  UniqueFd fd_;  // closed first
  bool has_table_ = false;

  // Inside rings_ and entries_.
  std::uint32_t* submission_head_ = nullptr;  // the kernel's
  std::uint32_t* submission_tail_ = nullptr;
  std::uint32_t submission_mask_ = 0;
  io_uring_sqe* submissions_ = nullptr;
  std::uint32_t* completion_head_ = nullptr;
  std::uint32_t* completion_tail_ = nullptr;  // the kernel's
  std::uint32_t completion_mask_ = 0;
  io_uring_cqe* completions_ = nullptr;
};

}  // namespace streamload
