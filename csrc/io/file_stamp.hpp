// What tells one file, and one state of it, from another; and opening the file that has it.
#pragma once

#include <cstdint>
#include <string>

#include "core/status.hpp"
#include "core/unique_fd.hpp"

namespace streamload {

// Taken when the file's header was read.
struct FileStamp {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t nbytes = 0;
  std::int64_t mtime_ns = 0;

  [[nodiscard]] bool operator==(const FileStamp&) const noexcept = default;
};

// Opens `path` for reading and checks it against `expected`. Fails with kNotFound, kPermission, kReadFailed or
// kChanged. `extra_flags` are more O_ flags. Never waits for a FIFO.
[[nodiscard]] Status open_stamped(const std::string& path, const FileStamp& expected, UniqueFd& out,
                                  int extra_flags = 0) noexcept;

// Checks what is behind the descriptor, and what is behind the path now, against `expected`. A path that is gone is
// no failure: the descriptor still holds the bytes. Fails with kReadFailed or kChanged.
[[nodiscard]] Status check_stamp(int fd, const std::string& path, const FileStamp& expected) noexcept;

}  // namespace streamload
