// A local file: buffered where the page cache holds the bytes, around it (O_DIRECT) where it does not.
//
// Descriptors are held between the first read and retire() only, so that a checkpoint may have more shards than a
// process may open files. The choice of route is made per read, by cachestat(2) (Linux 6.5). Where that is not to be
// had (older kernels, files of other owners) or the file system keeps its files in memory, reads are buffered. A file
// system that refuses O_DIRECT demotes the file to buffered reads.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "core/unique_fd.hpp"
#include "io/source.hpp"

namespace streamload {

// What tells one file, and one state of it, from another; taken when its header was read.
struct FileStamp {
  std::uint64_t device = 0;
  std::uint64_t inode = 0;
  std::uint64_t nbytes = 0;
  std::int64_t mtime_ns = 0;

  [[nodiscard]] bool operator==(const FileStamp&) const noexcept = default;
};

// Opens `path` and checks it against `expected`. Fails with kNotFound, kPermission, kReadFailed or kChanged.
[[nodiscard]] Status open_stamped(const std::string& path, const FileStamp& expected, UniqueFd& out) noexcept;

class FileSource final : public Source {
 public:
  // direct: true and false force the route, nullopt decides per read.
  [[nodiscard]] static Status open(std::string path, const FileStamp& expected, std::optional<bool> direct,
                                   std::shared_ptr<Source>& out) noexcept;

  FileSource(std::string path, const FileStamp& expected, std::optional<bool> direct)
      : path_(std::move(path)), expected_(expected), direct_(direct) {}

  [[nodiscard]] const std::string& url() const noexcept override { return path_; }
  [[nodiscard]] Status read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                            Route& route) noexcept override;
  [[nodiscard]] Status read_in_place(std::uint64_t offset, std::span<const HostSpan> targets,
                                     bool& taken) noexcept override;
  [[nodiscard]] Status check_unchanged() noexcept override;
  void retire() noexcept override;

 private:
  struct Files {
    UniqueFd buffered;
    UniqueFd direct;  // empty where O_DIRECT is refused or not wanted
  };

  [[nodiscard]] Status acquire(std::shared_ptr<const Files>& out) noexcept;
  [[nodiscard]] bool reads_direct(const Files& files, std::uint64_t offset, std::size_t nbytes) const noexcept;
  [[nodiscard]] Status read_direct(const Files& files, std::uint64_t offset, std::size_t nbytes, HostSpan buffer,
                                   ConstHostSpan& out, bool& refused) noexcept;
  [[nodiscard]] Status failed(int error, std::uint64_t offset, std::size_t nbytes) const;
  [[nodiscard]] Status ended(std::uint64_t offset, std::size_t nbytes, std::size_t got) const;

  const std::string path_;
  const FileStamp expected_;
  const std::optional<bool> direct_;
  std::atomic<bool> direct_refused_{false};

  std::mutex mutex_;  // guards files_, and makes sure that it is opened once
  std::shared_ptr<const Files> files_;
};

}  // namespace streamload
