#include "faulty_calls.hpp"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <mutex>
#include <new>
#include <span>

extern "C" ssize_t __real_preadv(int fd, const iovec* parts, int count, off_t offset);

namespace streamload::faulty {
namespace {

std::mutex mutex;  // guards the two below
Judge judge;
std::size_t count = 0;

Verdict ask(std::string_view name, long detail = 0) {
  const std::lock_guard lock(mutex);
  if (!judge) return {};
  return judge(Call{name, count++, detail});
}

template <class Real>
auto unless_failed(const Verdict& verdict, Real&& real) -> decltype(real()) {
  if (verdict.error == 0) return real();
  errno = verdict.error;
  return static_cast<decltype(real())>(-1);
}

// Cuts a read off and overwrites what came behind, so that those bytes can be right only if they are read again.
ssize_t shorten(const Verdict& verdict, std::span<const iovec> parts, ssize_t n) {
  if (n < 0 || !verdict.most || static_cast<std::size_t>(n) <= *verdict.most) return n;
  std::size_t keep = *verdict.most;
  for (const iovec& part : parts) {
    const std::size_t kept = std::min(keep, part.iov_len);
    std::memset(static_cast<std::byte*>(part.iov_base) + kept, 0xAA, part.iov_len - kept);
    keep -= kept;
  }
  return static_cast<ssize_t>(*verdict.most);
}

std::string_view name_of(long number) {
  switch (number) {
    case SYS_io_uring_setup: return "io_uring_setup";
    case SYS_io_uring_enter: return "io_uring_enter";
    case SYS_io_uring_register: return "io_uring_register";
    case 451: return "cachestat";
    default: return {};  // futex(2) of the C++ library, for one
  }
}

// Reads as a drive would that writes to memory on that grid; the one below may want a wider one.
ssize_t read_onto(std::uint32_t grid, int fd, std::span<const iovec> parts, off_t offset) {
  std::size_t nbytes = 0;
  for (const iovec& part : parts) {
    nbytes += part.iov_len;
    if (reinterpret_cast<std::uintptr_t>(part.iov_base) % grid != 0) return errno = EINVAL, -1;
  }
  constexpr std::align_val_t kPage{4096};
  auto* const room = static_cast<std::byte*>(::operator new(nbytes, kPage));
  const iovec all{room, nbytes};
  const ssize_t n = __real_preadv(fd, &all, 1, offset);
  std::size_t left = n > 0 ? static_cast<std::size_t>(n) : 0;
  const std::byte* from = room;
  for (const iovec& part : parts) {
    const std::size_t now = std::min(left, part.iov_len);
    std::memcpy(part.iov_base, from, now);
    from += now;
    left -= now;
  }
  ::operator delete(room, kPage);
  return n;
}

}  // namespace

Faults::Faults(Judge new_judge) {
  const std::lock_guard lock(mutex);
  judge = std::move(new_judge);
  count = 0;
}

Faults::~Faults() {
  const std::lock_guard lock(mutex);
  judge = {};
}

std::size_t Faults::calls() const {
  const std::lock_guard lock(mutex);
  return count;
}

}  // namespace streamload::faulty

using streamload::faulty::ask;
using streamload::faulty::read_onto;
using streamload::faulty::shorten;
using streamload::faulty::unless_failed;

extern "C" {

int __real_open(const char* path, int flags, ...);
int __real_fcntl(int fd, int command, ...);
int __real_fstat(int fd, struct stat* out);
int __real_stat(const char* path, struct stat* out);
int __real_statx(int fd, const char* path, int flags, unsigned mask, struct statx* out);
int __real_fstatfs(int fd, struct statfs* out);
ssize_t __real_pread(int fd, void* buffer, std::size_t nbytes, off_t offset);
ssize_t __real_preadv2(int fd, const iovec* parts, int count, off_t offset, int flags);
void* __real_mmap(void* address, std::size_t nbytes, int protection, int flags, int fd, off_t offset);
int __real_madvise(void* address, std::size_t nbytes, int advice);
int __real_eventfd(unsigned first, int flags);
long __real_syscall(long number, ...);

int __wrap_open(const char* path, int flags, ...) {
  return unless_failed(ask("open", flags), [&] { return __real_open(path, flags, 0); });
}
int __wrap_fcntl(int fd, int command, ...) {
  va_list more;
  va_start(more, command);
  const long argument = va_arg(more, long);
  va_end(more);
  return unless_failed(ask("fcntl", command), [&] { return __real_fcntl(fd, command, argument); });
}
int __wrap_fstat(int fd, struct stat* out) {
  return unless_failed(ask("fstat"), [&] { return __real_fstat(fd, out); });
}
int __wrap_stat(const char* path, struct stat* out) {
  return unless_failed(ask("stat"), [&] { return __real_stat(path, out); });
}
int __wrap_statx(int fd, const char* path, int flags, unsigned mask, struct statx* out) {
  const auto verdict = ask("statx");
  const int result = unless_failed(verdict, [&] { return __real_statx(fd, path, flags, mask, out); });
  if (result == 0 && verdict.memory_grid) {
    constexpr unsigned kStatxDioAlign = 0x2000;  // as in file_source.cpp
    constexpr std::size_t kMemoryAlignAt = 0x98;
    const std::array<std::uint32_t, 2> aligns{*verdict.memory_grid, 4096};
    out->stx_mask |= kStatxDioAlign;
    std::memcpy(reinterpret_cast<std::byte*>(out) + kMemoryAlignAt, aligns.data(), sizeof aligns);
  }
  return result;
}
int __wrap_fstatfs(int fd, struct statfs* out) {
  const auto verdict = ask("fstatfs");
  const int result = unless_failed(verdict, [&] { return __real_fstatfs(fd, out); });
  if (result == 0 && verdict.file_system) out->f_type = *verdict.file_system;
  return result;
}
ssize_t __wrap_pread(int fd, void* buffer, std::size_t nbytes, off_t offset) {
  const auto verdict = ask("pread");
  const iovec part{buffer, nbytes};
  return shorten(verdict, {&part, 1}, unless_failed(verdict, [&] { return __real_pread(fd, buffer, nbytes, offset); }));
}
ssize_t __wrap_preadv(int fd, const iovec* parts, int count, off_t offset) {
  const auto verdict = ask("preadv");
  const ssize_t n = unless_failed(verdict, [&] {
    const bool onto = verdict.memory_grid && (__real_fcntl(fd, F_GETFL, 0) & O_DIRECT) != 0;
    if (!onto) return __real_preadv(fd, parts, count, offset);
    return read_onto(*verdict.memory_grid, fd, {parts, static_cast<std::size_t>(count)}, offset);
  });
  return shorten(verdict, {parts, static_cast<std::size_t>(count)}, n);
}
ssize_t __wrap_preadv2(int fd, const iovec* parts, int count, off_t offset, int flags) {
  return unless_failed(ask("preadv2", flags), [&] { return __real_preadv2(fd, parts, count, offset, flags); });
}
void* __wrap_mmap(void* address, std::size_t nbytes, int protection, int flags, int fd, off_t offset) {
  const auto verdict = ask("mmap");
  errno = verdict.error;
  return verdict.error != 0 ? MAP_FAILED : __real_mmap(address, nbytes, protection, flags, fd, offset);
}
int __wrap_madvise(void* address, std::size_t nbytes, int advice) {
  return unless_failed(ask("madvise"), [&] { return __real_madvise(address, nbytes, advice); });
}
int __wrap_eventfd(unsigned first, int flags) {
  return unless_failed(ask("eventfd"), [&] { return __real_eventfd(first, flags); });
}
long __wrap_syscall(long number, ...) {
  va_list more;
  va_start(more, number);
  long arguments[6];
  for (long& argument : arguments) argument = va_arg(more, long);  // as many as any call has
  va_end(more);
  const auto name = streamload::faulty::name_of(number);
  return unless_failed(name.empty() ? streamload::faulty::Verdict{} : ask(name), [&] {
    return __real_syscall(number, arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5]);
  });
}

}  // extern "C"
