// What kind of file system a file is on, by the number that fstatfs(2) gives: that decides what O_DIRECT means there.
#pragma once

#include <cstdint>

namespace streamload {

enum class FileSystemKind : std::uint8_t {
  kDrive,    // O_DIRECT goes around the page cache; also whatever is not known here
  kMemory,   // the file is page cache: there is nothing to go around
  kStacked,  // overlayfs: cachestat(2) looks at the file on top, which has no pages; they belong to the one below
  kRemote,   // network and user space: O_DIRECT switches off the client's read-ahead and its cache, or means nothing
};

// `magic` is statfs.f_type.
[[nodiscard]] FileSystemKind file_system_kind(std::int64_t magic) noexcept;

}  // namespace streamload
