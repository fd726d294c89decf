#include "io/file_source.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

namespace streamload {
namespace {

constexpr std::uint64_t kPageBytes = 4096;
// A read is buffered when the page cache holds at least this share of it. A wrong choice costs 4–6×
// either way; below nine tenths the missing pages are fetched one by one.
constexpr std::uint64_t kCachedTenths = 9;

// cachestat(2): number and layout from include/uapi/asm-generic/unistd.h and uapi/linux/mman.h, Linux 6.5.
constexpr long kSysCachestat = 451;
struct CachestatRange {
  std::uint64_t offset;
  std::uint64_t nbytes;
};
struct Cachestat {
  std::uint64_t cached;
  std::uint64_t dirty;
  std::uint64_t writeback;
  std::uint64_t evicted;
  std::uint64_t recently_evicted;
};

// File systems that live in memory (linux/magic.h): O_DIRECT gains nothing there.
constexpr std::array<std::int64_t, 3> kMemoryFileSystems = {0x01021994 /* tmpfs */, 0x858458f6 /* ramfs */,
                                                            0x958458f6 /* hugetlbfs */};

std::uint64_t align_down(std::uint64_t value) noexcept { return value & ~(kDirectAlignment - 1); }
std::uint64_t align_up(std::uint64_t value) noexcept { return align_down(value + kDirectAlignment - 1); }

FileStamp stamp_of(const struct stat& facts) noexcept {
  constexpr std::int64_t kNanoseconds = 1'000'000'000;
  return FileStamp{facts.st_dev, facts.st_ino, static_cast<std::uint64_t>(facts.st_size),
                   facts.st_mtim.tv_sec * kNanoseconds + facts.st_mtim.tv_nsec};
}

Status changed(const std::string& path, const FileStamp& expected, const FileStamp& found) {
  std::string what = "modified in place";
  if (expected.device != found.device || expected.inode != found.inode) {
    what = "replaced by another file";
  } else if (expected.nbytes != found.nbytes) {
    what = "resized to " + std::to_string(found.nbytes) + " bytes";
  }
  Status status =
      Status::failure(Code::kChanged, path + ": " + what + " since its header was read (it had " +
                                          std::to_string(expected.nbytes) + " bytes then); open the checkpoint again");
  status.source = path;
  status.nbytes = expected.nbytes;
  return status;
}

Status system_failure(Code code, const std::string& path, const char* call, int error) {
  const char* hint = error == EMFILE ? "; raise the limit of open files (ulimit -n)" : "";
  Status status =
      Status::failure(code, path + ": " + call + ": " + std::system_category().message(error) + hint, error);
  status.source = path;
  return status;
}

bool in_memory(int fd) noexcept {
  struct statfs facts{};
  if (::fstatfs(fd, &facts) != 0) return false;
  const auto kind = static_cast<std::int64_t>(facts.f_type);
  return std::find(kMemoryFileSystems.begin(), kMemoryFileSystems.end(), kind) != kMemoryFileSystems.end();
}

}  // namespace

Status open_stamped(const std::string& path, const FileStamp& expected, UniqueFd& out) noexcept {
  // O_NONBLOCK: a FIFO put in the file's place must not be waited for. It means nothing to a regular file.
  UniqueFd fd;
  int error = EINTR;
  while (!fd && error == EINTR) {
    fd = UniqueFd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    error = errno;
  }
  if (!fd) {
    const Code code = error == ENOENT                     ? Code::kNotFound
                      : error == EACCES || error == EPERM ? Code::kPermission
                                                          : Code::kReadFailed;
    return system_failure(code, path, "open", error);
  }
  struct stat facts{};
  if (::fstat(fd.get(), &facts) != 0) return system_failure(Code::kReadFailed, path, "fstat", errno);
  const FileStamp found = stamp_of(facts);
  if (found != expected) return changed(path, expected, found);
  out = std::move(fd);
  return {};
}

Status FileSource::open(std::string path, const FileStamp& expected, std::optional<bool> direct,
                        std::shared_ptr<Source>& out) noexcept {
  UniqueFd checked;
  if (Status status = open_stamped(path, expected, checked); !status.ok()) return status;
  out = std::make_shared<FileSource>(std::move(path), expected, direct);
  return {};
}

Status FileSource::acquire(std::shared_ptr<const Files>& out) noexcept {
  const std::lock_guard lock(mutex_);
  if (!files_) {
    Files files;
    if (Status status = open_stamped(path_, expected_, files.buffered); !status.ok()) return status;
    if (direct_.value_or(!in_memory(files.buffered.get()))) {
      files.direct = UniqueFd(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
      struct stat facts{};
      // Another file by now: the buffered descriptor is the one that was checked, so read through that.
      const bool same = files.direct && ::fstat(files.direct.get(), &facts) == 0 && stamp_of(facts) == expected_;
      if (!same) files.direct = UniqueFd();
    }
    files_ = std::make_shared<const Files>(std::move(files));
  }
  out = files_;
  return {};
}

void FileSource::retire() noexcept {
  std::shared_ptr<const Files> files;  // closed outside the lock, when the last read has ended
  const std::lock_guard lock(mutex_);
  files.swap(files_);
}

bool FileSource::reads_direct(const Files& files, std::uint64_t offset, std::size_t nbytes) const noexcept {
  if (!files.direct || direct_refused_.load()) return false;
  if (direct_.has_value()) return true;
  const std::uint64_t first = align_down(offset);
  const CachestatRange range{first, align_up(offset + nbytes) - first};
  Cachestat found{};
  if (::syscall(kSysCachestat, files.buffered.get(), &range, &found, 0U) != 0) return false;
  const std::uint64_t end = std::min(range.offset + range.nbytes, align_up(expected_.nbytes));
  const std::uint64_t pages = (end - std::min(first, end)) / kPageBytes;
  return found.cached * 10 < pages * kCachedTenths;
}

Status FileSource::read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                        Route& route) noexcept {
  std::shared_ptr<const Files> files;
  if (Status status = acquire(files); !status.ok()) return status;
  if (reads_direct(*files, offset, nbytes)) {
    bool refused = false;
    Status status = read_direct(*files, offset, nbytes, buffer, out, refused);
    if (!refused) {
      route = Route::kDirect;
      return status;
    }
  }
  route = Route::kBuffered;
  std::size_t got = 0;
  while (got < nbytes) {
    const ssize_t n =
        ::pread(files->buffered.get(), buffer.data() + got, nbytes - got, static_cast<off_t>(offset + got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(errno, offset, nbytes);
    if (n == 0) return ended(offset, nbytes, got);
    got += static_cast<std::size_t>(n);
  }
  out = buffer.first(nbytes);
  return {};
}

// Reads the aligned blocks around the wanted bytes. `refused`: the file system takes no such read (EINVAL), the blocks
// do not fit the buffer, or fewer came than wanted; a buffered read then finds out whether the file has ended.
Status FileSource::read_direct(const Files& files, std::uint64_t offset, std::size_t nbytes, HostSpan buffer,
                               ConstHostSpan& out, bool& refused) noexcept {
  const std::uint64_t first = align_down(offset);
  const std::size_t lead = offset - first;
  const std::size_t blocks = align_up(offset + nbytes) - first;
  refused = blocks > buffer.size();
  if (refused) return {};
  std::size_t got = 0;
  while (got < lead + nbytes) {
    const ssize_t n = ::pread(files.direct.get(), buffer.data() + got, blocks - got, static_cast<off_t>(first + got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EINVAL) {
      direct_refused_.store(true);
      refused = true;
      return {};
    }
    if (n < 0) return failed(errno, offset, nbytes);
    got += static_cast<std::size_t>(n);
    if (n == 0 || got % kDirectAlignment != 0) break;  // asking on from off the grid would be refused
  }
  refused = got < lead + nbytes;
  if (refused) return {};
  out = buffer.subspan(lead, nbytes);
  return {};
}

Status FileSource::read_in_place(std::uint64_t offset, std::span<const HostSpan> targets, bool& taken) noexcept {
  std::size_t nbytes = 0;
  for (const HostSpan& target : targets) nbytes += target.size();
  std::shared_ptr<const Files> files;
  if (Status status = acquire(files); !status.ok()) return status;
  taken = !reads_direct(*files, offset, nbytes);
  if (!taken) return {};
  constexpr std::size_t kMost = 512;  // half of Linux's IOV_MAX; the plan keeps reads below it
  std::array<iovec, kMost> parts{};
  std::size_t got = 0;
  std::size_t next = 0;    // first target that is not full
  std::size_t inside = 0;  // bytes it already holds
  while (next < targets.size()) {
    std::size_t count = 0;
    for (std::size_t i = next; i < targets.size() && count < kMost; ++i, ++count) {
      const std::size_t skip = i == next ? inside : 0;
      parts[count] = iovec{targets[i].data() + skip, targets[i].size() - skip};
    }
    const ssize_t n =
        ::preadv(files->buffered.get(), parts.data(), static_cast<int>(count), static_cast<off_t>(offset + got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return failed(errno, offset, nbytes);
    if (n == 0) return ended(offset, nbytes, got);
    got += static_cast<std::size_t>(n);
    inside += static_cast<std::size_t>(n);
    while (next < targets.size() && inside >= targets[next].size()) inside -= targets[next++].size();
  }
  return {};
}

Status FileSource::check_unchanged() noexcept {
  std::shared_ptr<const Files> files;
  if (Status status = acquire(files); !status.ok()) return status;
  struct stat facts{};
  if (::fstat(files->buffered.get(), &facts) != 0) return system_failure(Code::kReadFailed, path_, "fstat", errno);
  if (const FileStamp found = stamp_of(facts); found != expected_) return changed(path_, expected_, found);
  // A deleted file still holds its bytes behind our descriptor; another file under its name is a new checkpoint.
  if (::stat(path_.c_str(), &facts) == 0) {
    if (const FileStamp found = stamp_of(facts); found != expected_) return changed(path_, expected_, found);
  }
  return {};
}

Status FileSource::failed(int error, std::uint64_t offset, std::size_t nbytes) const {
  Status status = Status::failure(Code::kReadFailed,
                                  path_ + ": reading " + std::to_string(nbytes) + " bytes at offset " +
                                      std::to_string(offset) + ": " + std::system_category().message(error),
                                  error);
  status.source = path_;
  status.offset = offset;
  status.nbytes = nbytes;
  return status;
}

Status FileSource::ended(std::uint64_t offset, std::size_t nbytes, std::size_t got) const {
  Status status = Status::failure(
      Code::kShortRead, path_ + ": got " + std::to_string(got) + " of " + std::to_string(nbytes) + " bytes at offset " +
                            std::to_string(offset) + "; the file had " + std::to_string(expected_.nbytes) +
                            " bytes when its header was read and has been truncated since");
  status.source = path_;
  status.offset = offset;
  status.nbytes = nbytes;
  return status;
}

}  // namespace streamload
