// Locks on byte ranges of a file among open file descriptions: of other processes, and of this one.
//
// Linux' open file description locks (fcntl(2), F_OFD_SETLK): the kernel drops them when the last descriptor of the
// description is closed, also by kill -9. A forked child shares its parent's.
#pragma once

#include <fcntl.h>

#include <cstdint>

#include "io/interrupted.hpp"

namespace streamload {

enum class LockKind : std::uint8_t { kShared, kExclusive, kNone };
enum class LockWait : std::uint8_t { kNo, kYes };

// Locks or unlocks [offset, offset + nbytes). Returns 0 or the error: EAGAIN where somebody else holds a lock against
// it and `wait` is kNo. An exclusive lock asks for a descriptor open for writing, a shared one for reading.
[[nodiscard]] inline int lock_range(int fd, std::uint64_t offset, std::uint64_t nbytes, LockKind kind,
                                    LockWait wait = LockWait::kNo) noexcept {
  struct flock range{};  // l_pid must be 0
  const int type = kind == LockKind::kShared ? F_RDLCK : kind == LockKind::kExclusive ? F_WRLCK : F_UNLCK;
  range.l_type = static_cast<decltype(range.l_type)>(type);
  range.l_whence = SEEK_SET;
  range.l_start = static_cast<off_t>(offset);
  range.l_len = static_cast<off_t>(nbytes);
  const int command = wait == LockWait::kYes ? F_OFD_SETLKW : F_OFD_SETLK;
  if (retry_interrupted([&] { return ::fcntl(fd, command, &range); }) == 0) return 0;
  return errno == EACCES ? EAGAIN : errno;
}

}  // namespace streamload
