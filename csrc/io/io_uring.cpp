#include "io/io_uring.hpp"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <system_error>

namespace streamload {
namespace {

// From uapi/linux/io_uring.h, Linux 5.13; headers that know IORING_OP_READ may be older.
constexpr unsigned kRegisterBuffersUpdate = 16;
struct BuffersUpdate {
  std::uint32_t offset;
  std::uint32_t reserved;
  std::uint64_t data;
  std::uint64_t tags;
  std::uint32_t count;
  std::uint32_t reserved2;
};

// One read moves at most this (MAX_RW_COUNT); a longer one ends short.
constexpr std::size_t kMostBytes = 0x7FFFF000;

// The ring's heads and tails are shared with the kernel, which pairs its acquires and releases with these.
std::uint32_t load(std::uint32_t* shared) noexcept { return std::atomic_ref(*shared).load(std::memory_order_acquire); }
void store(std::uint32_t* shared, std::uint32_t value) noexcept {
  std::atomic_ref(*shared).store(value, std::memory_order_release);
}

std::uint64_t address_of(const void* memory) noexcept { return reinterpret_cast<std::uintptr_t>(memory); }

Status refused(const char* call, int error) {
  const char* hint = "";
  switch (error) {
    case EPERM: hint = "; the sysctl kernel.io_uring_disabled or a container's seccomp filter forbids it"; break;
    case ENOSYS: hint = "; the kernel was built without it or a seccomp filter hides it"; break;
    case ENOMEM: hint = "; memory is short, or the limit of locked memory (ulimit -l) is"; break;
    case EMFILE: hint = "; raise the limit of open files (ulimit -n)"; break;
    default: break;
  }
  return Status::failure(Code::kReadFailed,
                         std::string("no io_uring: ") + call + ": " + std::system_category().message(error) + hint,
                         error);
}

}  // namespace

IoUring::Mapping::~Mapping() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

bool IoUring::Mapping::map(int fd, std::size_t nbytes, std::uint64_t place) noexcept {
  void* memory =
      ::mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, static_cast<off_t>(place));
  if (memory == MAP_FAILED) return false;
  bytes_ = HostSpan(static_cast<std::byte*>(memory), nbytes);
  return true;
}

Status IoUring::make(std::uint32_t entries, std::unique_ptr<IoUring>& out) noexcept {
  auto ring = std::make_unique<IoUring>();
  if (Status status = ring->set_up(entries); !status.ok()) return status;
  out = std::move(ring);
  return {};
}

Status IoUring::set_up(std::uint32_t entries) noexcept {
  io_uring_params params{};
  fd_ = UniqueFd(static_cast<int>(::syscall(SYS_io_uring_setup, entries, &params)));
  if (!fd_) return refused("io_uring_setup", errno);
  // Came with IORING_OP_READ; both queues have shared one mapping since before.
  if ((params.features & IORING_FEAT_RW_CUR_POS) == 0) {
    return Status::failure(Code::kReadFailed, "no io_uring: this kernel's has no plain reads; Linux 5.6 is needed");
  }
  const std::size_t submission_bytes = params.sq_off.array + params.sq_entries * sizeof(std::uint32_t);
  const std::size_t completion_bytes = params.cq_off.cqes + params.cq_entries * sizeof(io_uring_cqe);
  if (!rings_.map(fd_.get(), std::max(submission_bytes, completion_bytes), IORING_OFF_SQ_RING) ||
      !entries_.map(fd_.get(), params.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES)) {
    return refused("mmap", errno);
  }
  submission_head_ = rings_.at<std::uint32_t>(params.sq_off.head);
  submission_tail_ = rings_.at<std::uint32_t>(params.sq_off.tail);
  submission_mask_ = *rings_.at<std::uint32_t>(params.sq_off.ring_mask);
  submissions_ = entries_.at<io_uring_sqe>(0);
  completion_head_ = rings_.at<std::uint32_t>(params.cq_off.head);
  completion_tail_ = rings_.at<std::uint32_t>(params.cq_off.tail);
  completion_mask_ = *rings_.at<std::uint32_t>(params.cq_off.ring_mask);
  completions_ = rings_.at<io_uring_cqe>(params.cq_off.cqes);
  auto* order = rings_.at<std::uint32_t>(params.sq_off.array);
  for (std::uint32_t i = 0; i < params.sq_entries; ++i) order[i] = i;
  const std::array<iovec, kFixedSlots> empty{};
  has_table_ =
      ::syscall(SYS_io_uring_register, fd_.get(), IORING_REGISTER_BUFFERS, empty.data(), unsigned{kFixedSlots}) == 0;
  return {};
}

void IoUring::push_read(int fd, std::uint64_t offset, HostSpan target, std::optional<FixedSlot> slot,
                        Tag tag) noexcept {
  io_uring_sqe entry{};
  entry.opcode = slot ? IORING_OP_READ_FIXED : IORING_OP_READ;
  entry.fd = fd;
  entry.off = offset;
  entry.addr = address_of(target.data());
  entry.len = static_cast<std::uint32_t>(std::min(target.size(), kMostBytes));
  entry.buf_index = slot.value_or(0);
  entry.user_data = tag;
  push(entry);
}

void IoUring::push_scattered(int fd, std::uint64_t offset, std::span<const iovec> parts, Tag tag) noexcept {
  io_uring_sqe entry{};
  entry.opcode = IORING_OP_READV;
  entry.fd = fd;
  entry.off = offset;
  entry.addr = address_of(parts.data());
  entry.len = static_cast<std::uint32_t>(parts.size());
  entry.user_data = tag;
  push(entry);
}

void IoUring::push(const io_uring_sqe& entry) noexcept {
  const std::uint32_t tail = *submission_tail_;  // written by this thread only
  submissions_[tail & submission_mask_] = entry;
  store(submission_tail_, tail + 1);
}

std::uint32_t IoUring::pending() const noexcept { return *submission_tail_ - load(submission_head_); }

int IoUring::submit_and_wait() noexcept {
  const long n = ::syscall(SYS_io_uring_enter, fd_.get(), pending(), 1U, IORING_ENTER_GETEVENTS, nullptr, 0UL);
  if (n >= 0 || errno == EINTR) return 0;
  return errno;
}

std::optional<IoUring::Tag> IoUring::take_back() noexcept {
  if (pending() == 0) return {};
  const std::uint32_t last = *submission_tail_ - 1;
  store(submission_tail_, last);
  return submissions_[last & submission_mask_].user_data;
}

std::optional<IoUring::Completion> IoUring::pop() noexcept {
  const std::uint32_t head = *completion_head_;  // written by this thread only
  if (head == load(completion_tail_)) return {};
  const io_uring_cqe& entry = completions_[head & completion_mask_];
  const Completion completion{entry.user_data, entry.res};
  store(completion_head_, head + 1);
  return completion;
}

bool IoUring::fix(FixedSlot slot, HostSpan memory) noexcept {
  if (!has_table_) return false;
  const iovec part{memory.data(), memory.size()};
  BuffersUpdate update{};
  update.offset = slot;
  update.data = address_of(&part);
  update.count = 1;
  return ::syscall(SYS_io_uring_register, fd_.get(), kRegisterBuffersUpdate, &update, sizeof update) == 1;
}

}  // namespace streamload
