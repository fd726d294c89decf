// A local file: buffered where the page cache holds the bytes, around it (O_DIRECT) where it does not.
//
// Descriptors are held between the first read and retire() only, so that a checkpoint may have more shards than a
// process may open files. The choice of route is made per read: by what the kernel counts (page_cache.hpp), else by
// sample reads (cache_probe.hpp). Files that live in memory are always read buffered, and so are those on network and
// user-space file systems unless direct reads are forced (file_system.hpp). A file system that refuses O_DIRECT
// demotes the file to buffered reads.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "core/unique_fd.hpp"
#include "io/file_stamp.hpp"
#include "io/file_system.hpp"
#include "io/source.hpp"

namespace streamload {

class FileSource final : public Source {
 public:
  // direct: true and false force the route, nullopt decides per read.
  [[nodiscard]] static Status open(std::string path, const FileStamp& expected, std::optional<bool> direct,
                                   std::shared_ptr<Source>& out) noexcept;

  FileSource(std::string path, const FileStamp& expected, std::optional<bool> direct)
      : path_(std::move(path)), expected_(expected), direct_(direct) {}

  [[nodiscard]] const std::string& url() const noexcept override { return path_; }
  [[nodiscard]] Status choose(std::uint64_t offset, std::size_t nbytes, Choice& out) noexcept override;
  [[nodiscard]] Status read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                            Choice& choice) noexcept override;
  [[nodiscard]] bool can_scatter() const noexcept override { return true; }
  [[nodiscard]] Status read_scattered(std::uint64_t offset, std::span<const HostSpan> targets) noexcept override;
  [[nodiscard]] bool prepare_direct(std::uint64_t offset, std::size_t nbytes, HostSpan buffer,
                                    DirectRange& out) noexcept override;
  [[nodiscard]] bool prepare_scattered(std::uint64_t offset, std::size_t lead, std::span<const iovec> parts,
                                       DirectRange& out) noexcept override;
  [[nodiscard]] std::int64_t read_prepared(const DirectRange& range) noexcept override;
  [[nodiscard]] Status finish_direct(const DirectRange& range, std::uint64_t offset, std::size_t nbytes,
                                     std::int64_t result, ConstHostSpan& out, bool& again) noexcept override;
  [[nodiscard]] std::size_t direct_grid() const noexcept override { return direct_refused_ ? 0 : memory_grid_.load(); }
  [[nodiscard]] Status check_unchanged() noexcept override;
  void retire() noexcept override;

 private:
  struct Files {
    FileSystemKind kind = FileSystemKind::kDrive;
    UniqueFd buffered;
    UniqueFd direct;  // empty where O_DIRECT is refused or not wanted
    UniqueFd probe;   // for sample reads; empty where the kernel counts, or nothing hangs on it
  };

  [[nodiscard]] Status acquire(std::shared_ptr<const Files>& out) noexcept;
  void open_direct(Files& files) noexcept;
  [[nodiscard]] CacheState counted(const Files& files, std::uint64_t offset, std::size_t nbytes) const noexcept;
  [[nodiscard]] Status read_direct(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                                   bool& again) noexcept;
  [[nodiscard]] Status failed(int error, std::uint64_t offset, std::size_t nbytes) const;
  [[nodiscard]] Status ended(std::uint64_t offset, std::size_t nbytes, std::size_t got) const;

  const std::string path_;
  const FileStamp expected_;
  const std::optional<bool> direct_;
  std::atomic<bool> direct_refused_{false};
  std::atomic<std::size_t> grid_{0};
  std::atomic<std::size_t> memory_grid_{0};

  std::mutex mutex_;  // guards files_, and makes sure that it is opened once
  std::shared_ptr<const Files> files_;
};

}  // namespace streamload
