#include "io/file_source.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <system_error>

#include "core/kernel_version.hpp"
#include "io/cache_probe.hpp"
#include "io/interrupted.hpp"
#include "io/page_cache.hpp"

namespace streamload {
namespace {

FileSystemKind kind_of(int fd) noexcept {
  struct statfs facts{};
  if (retry_interrupted([&] { return ::fstatfs(fd, &facts); }) != 0) return FileSystemKind::kDrive;
  return file_system_kind(static_cast<std::int64_t>(facts.f_type));
}

// What direct reads keep: `memory` of the addresses that they write to, `all` of file offsets, lengths and addresses. 0
// where the file takes none (the open flag is ignored then, and reads go through the page cache after all).
struct Grids {
  std::size_t memory = 0;
  std::size_t all = 0;
};

Grids grids_of(int fd) noexcept {
  // From include/uapi/linux/stat.h, Linux 6.1; the headers of older systems do not have it.
  constexpr unsigned kStatxDioAlign = 0x2000;
  constexpr std::size_t kMemoryAlignAt = 0x98;
  struct statx facts{};
  const int failed =
      retry_interrupted([&] { return ::statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, kStatxDioAlign, &facts); });
  if (failed != 0 || (facts.stx_mask & kStatxDioAlign) == 0) return {kDirectAlignment, kDirectAlignment};
  std::array<std::uint32_t, 2> aligns{};  // of memory, of file offsets
  std::memcpy(aligns.data(), reinterpret_cast<const std::byte*>(&facts) + kMemoryAlignAt, sizeof aligns);
  if (aligns[1] == 0) return {};
  // Until Linux 6.5 a direct read only refers to its pages: where this process forks and then writes beside the bytes
  // that are on their way, it gets another page, and they do not arrive. So they share a page with nothing else there.
  static const std::size_t least = kernel_at_least(6, 5) ? 1 : kDirectAlignment;
  return {std::max<std::size_t>(aligns[0], least), std::max(aligns[0], aligns[1])};
}

// What is left of parts to fill once their first `nbytes` are.
std::span<iovec> skip(std::span<iovec> parts, std::size_t nbytes) noexcept {
  while (!parts.empty() && nbytes >= parts.front().iov_len) {
    nbytes -= parts.front().iov_len;
    parts = parts.subspan(1);
  }
  if (!parts.empty()) {
    parts.front() = {static_cast<std::byte*>(parts.front().iov_base) + nbytes, parts.front().iov_len - nbytes};
  }
  return parts;
}

// Fills parts of memory, however many, from a place in a file; returns the bytes read, or -errno. Ends short at the
// file's end, and behind a read that ended off `grid`: asking on from there would be refused.
std::int64_t fill_parts(int fd, std::uint64_t offset, std::span<iovec> parts, std::size_t grid) noexcept {
  constexpr std::size_t kMost = 512;  // half of Linux's IOV_MAX
  std::size_t got = 0;
  while (!parts.empty()) {
    const auto now = parts.first(std::min(parts.size(), kMost));
    const auto place = static_cast<off_t>(offset + got);
    const ssize_t n = retry_interrupted([&] { return ::preadv(fd, now.data(), static_cast<int>(now.size()), place); });
    if (n < 0) return -errno;
    got += static_cast<std::size_t>(n);
    if (n == 0 || got % grid != 0) break;
    parts = skip(parts, static_cast<std::size_t>(n));
  }
  return static_cast<std::int64_t>(got);
}

}  // namespace

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
    files.kind = kind_of(files.buffered.get());
    const bool wanted = direct_.value_or(files.kind != FileSystemKind::kRemote);
    if (wanted && files.kind != FileSystemKind::kMemory) open_direct(files);
    files_ = std::make_shared<const Files>(std::move(files));
  }
  out = files_;
  return {};
}

// Leaves out what cannot be had: the descriptor that is open already reads everything.
void FileSource::open_direct(Files& files) noexcept {
  if (!open_stamped(path_, expected_, files.direct, O_DIRECT).ok()) return;
  // Where O_NONBLOCK stays, io_uring of older kernels gives EAGAIN in place of waiting.
  if (::fcntl(files.direct.get(), F_SETFL, O_DIRECT) != 0) files.direct = UniqueFd();
  if (files.direct) {
    const Grids grids = grids_of(files.direct.get());
    grid_ = grids.all;
    memory_grid_ = grids.memory;
  }
  if (grid_ == 0) files.direct = UniqueFd();
  if (!files.direct || direct_.has_value()) return;
  if (counted(files, 0, 1) != CacheState::kUnknown) return;
  if (!open_stamped(path_, expected_, files.probe).ok()) return;
  if (::posix_fadvise(files.probe.get(), 0, 0, POSIX_FADV_RANDOM) != 0) files.probe = UniqueFd();
}

CacheState FileSource::counted(const Files& files, std::uint64_t offset, std::size_t nbytes) const noexcept {
  if (files.kind == FileSystemKind::kStacked) return CacheState::kUnknown;
  return page_cache_state(files.buffered.get(), offset, nbytes, expected_.nbytes);
}

void FileSource::retire() noexcept {
  std::shared_ptr<const Files> files;  // closed outside the lock, when the last read has ended
  const std::lock_guard lock(mutex_);
  files.swap(files_);
}

Status FileSource::choose(std::uint64_t offset, std::size_t nbytes, Choice& out) noexcept {
  std::shared_ptr<const Files> files;
  if (Status status = acquire(files); !status.ok()) return status;
  out = Choice{Route::kBuffered, CacheState::kCached, false};
  if (files->kind == FileSystemKind::kMemory) return {};
  out.cache = counted(*files, offset, nbytes);
  if (!files->direct || direct_refused_) return {};
  if (out.cache == CacheState::kUnknown && files->probe) {
    out.cache = probe_page_cache(files->probe.get(), offset, nbytes);
    out.probed = out.cache != CacheState::kUnknown;
  }
  if (direct_.value_or(out.cache == CacheState::kUncached)) out.route = Route::kDirect;
  return {};
}

Status FileSource::read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                        Choice& choice) noexcept {
  if (choice.route == Route::kDirect) {
    bool again = false;
    Status status = read_direct(offset, nbytes, buffer, out, again);
    if (!again) return status;
  }
  choice.route = Route::kBuffered;
  std::shared_ptr<const Files> files;
  if (Status status = acquire(files); !status.ok()) return status;
  std::size_t got = 0;
  while (got < nbytes) {
    const HostSpan rest = buffer.subspan(got, nbytes - got);
    const auto place = static_cast<off_t>(offset + got);
    const ssize_t n =
        retry_interrupted([&] { return ::pread(files->buffered.get(), rest.data(), rest.size(), place); });
    if (n < 0) return failed(errno, offset, nbytes);
    if (n == 0) return ended(offset, nbytes, got);
    got += static_cast<std::size_t>(n);
  }
  out = buffer.first(nbytes);
  return {};
}

Status FileSource::read_direct(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                               bool& again) noexcept {
  DirectRange range;
  again = !prepare_direct(offset, nbytes, buffer, range);
  if (again) return {};
  return finish_direct(range, offset, nbytes, read_prepared(range), out, again);
}

std::int64_t FileSource::read_prepared(const DirectRange& range) noexcept {
  std::vector<iovec> parts = range.parts;
  if (parts.empty()) parts.push_back({range.target.data(), range.target.size()});
  return fill_parts(range.fd, range.offset, parts, std::max<std::size_t>(grid_, 1));
}

bool FileSource::prepare_direct(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, DirectRange& out) noexcept {
  std::shared_ptr<const Files> files;
  if (!acquire(files).ok() || !files->direct || direct_refused_) return false;
  const std::size_t grid = grid_;
  const auto address = reinterpret_cast<std::uintptr_t>(buffer.data());
  // What lies on the file's own grid is read as it is; around anything else a wider grid is kept.
  const bool exact = (offset | nbytes | address) % grid == 0;
  const std::size_t unit = exact ? grid : std::max(grid, kDirectAlignment);
  const std::size_t lead = offset % unit;
  const std::size_t blocks = (lead + nbytes + unit - 1) / unit * unit;
  if (address % unit != 0 || blocks > buffer.size()) return false;
  const int fd = files->direct.get();
  out = DirectRange{std::move(files), fd, offset - lead, buffer.first(blocks), {}, lead};
  return true;
}

bool FileSource::prepare_scattered(std::uint64_t offset, std::size_t lead, std::span<const iovec> parts,
                                   DirectRange& out) noexcept {
  std::shared_ptr<const Files> files;
  if (!acquire(files).ok() || !files->direct || direct_refused_ || grid_ > kDirectAlignment) return false;
  const int fd = files->direct.get();
  out = DirectRange{std::move(files), fd, offset, {}, {parts.begin(), parts.end()}, lead};
  return true;
}

Status FileSource::finish_direct(const DirectRange& range, std::uint64_t offset, std::size_t nbytes,
                                 std::int64_t result, ConstHostSpan& out, bool& again) noexcept {
  const bool refused = result == -EINVAL || result == -EOPNOTSUPP;  // the file system takes no such read
  const bool unlucky = result == -EAGAIN || result == -EINTR || result == -ECANCELED;
  // A buffered read finds out whether the file has ended.
  const bool ended_short = result >= 0 && static_cast<std::uint64_t>(result) < range.lead + nbytes;
  if (refused) direct_refused_ = true;
  again = refused || unlucky || ended_short;
  if (again) return {};
  if (result < 0) return failed(static_cast<int>(-result), offset, nbytes);
  if (range.parts.empty()) out = range.target.subspan(range.lead, nbytes);
  return {};
}

Status FileSource::read_scattered(std::uint64_t offset, std::span<const HostSpan> targets) noexcept {
  std::size_t nbytes = 0;
  for (const HostSpan& target : targets) nbytes += target.size();
  std::shared_ptr<const Files> files;
  if (Status status = acquire(files); !status.ok()) return status;
  std::vector<iovec> parts;
  parts.reserve(targets.size());
  for (const HostSpan& target : targets) parts.push_back({target.data(), target.size()});
  const std::int64_t got = fill_parts(files->buffered.get(), offset, parts, 1);
  if (got < 0) return failed(static_cast<int>(-got), offset, nbytes);
  if (static_cast<std::size_t>(got) < nbytes) return ended(offset, nbytes, static_cast<std::size_t>(got));
  return {};
}

Status FileSource::check_unchanged() noexcept {
  std::shared_ptr<const Files> files;
  if (Status status = acquire(files); !status.ok()) return status;
  return check_stamp(files->buffered.get(), path_, expected_);
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
