// What several native tests share: a scratch file that removes itself, its stamp, and bytes one can recognise.
#pragma once

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <string>
#include <vector>

#include "io/file_source.hpp"

namespace streamload {

// Byte i of every scratch file: neighbours differ, and so do the same places of different blocks.
inline std::byte pattern_at(std::uint64_t i) { return static_cast<std::byte>((i * 131 + (i >> 12)) & 0xFF); }

inline std::vector<std::byte> pattern(std::uint64_t first, std::size_t count) {
  std::vector<std::byte> bytes(count);
  for (std::size_t i = 0; i < count; ++i) bytes[i] = pattern_at(first + i);
  return bytes;
}

inline FileStamp stamp_of(const std::string& path) {
  struct stat facts{};
  if (::stat(path.c_str(), &facts) != 0) std::abort();
  return FileStamp{facts.st_dev, facts.st_ino, static_cast<std::uint64_t>(facts.st_size),
                   facts.st_mtim.tv_sec * 1'000'000'000 + facts.st_mtim.tv_nsec};
}

class ScratchFile {
 public:
  explicit ScratchFile(std::size_t nbytes)
      : ScratchFile(nbytes, ::getenv("TMPDIR") != nullptr ? ::getenv("TMPDIR") : "/tmp") {}
  ScratchFile(std::size_t nbytes, const std::string& directory) {
    std::string name = directory + "/streamload-XXXXXX";
    const int fd = ::mkstemp(name.data());
    if (fd < 0) std::abort();
    path_ = name;
    const std::vector<std::byte> bytes = pattern(0, nbytes);
    if (::write(fd, bytes.data(), nbytes) != static_cast<ssize_t>(nbytes)) std::abort();
    ::fsync(fd);
    ::close(fd);
  }
  ScratchFile(const ScratchFile&) = delete;
  ScratchFile& operator=(const ScratchFile&) = delete;
  ~ScratchFile() { ::unlink(path_.c_str()); }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] FileStamp stamp() const { return stamp_of(path_); }
  void truncate(std::size_t nbytes) const {
    if (::truncate(path_.c_str(), static_cast<off_t>(nbytes)) != 0) std::abort();
  }
  void drop_from_page_cache() const {
    const int fd = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
    ::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    ::close(fd);
  }

 private:
  std::string path_;
};

// How many entries a directory has: of /proc/self/fd (the one that looks included), of /proc/self/task.
inline std::size_t count_entries(const char* directory) {
  const std::filesystem::directory_iterator entries(directory);
  return static_cast<std::size_t>(std::distance(begin(entries), end(entries)));
}

}  // namespace streamload
