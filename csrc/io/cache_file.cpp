#include "io/cache_file.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "core/crc32c.hpp"
#include "io/cache_file_paths.hpp"
#include "io/interrupted.hpp"
#include "io/range_lock.hpp"

namespace streamload {
namespace {

constexpr std::size_t kMostParts = 256;  // of one call; IOV_MAX is 1024

// Moves the bytes of all parts by `call(parts, count, offset)`, which may move a part of them. Returns how many bytes
// were moved and, in `error`, why no more were: 0 where there was nothing more.
template <class Call>
std::uint64_t transfer(std::vector<iovec> parts, std::uint64_t offset, int& error, Call&& call) noexcept {
  std::uint64_t done = 0;
  error = 0;
  std::erase_if(parts, [](const iovec& part) { return part.iov_len == 0; });
  for (std::size_t first = 0; first < parts.size();) {
    const auto count = static_cast<int>(std::min(parts.size() - first, kMostParts));
    const ssize_t n =
        retry_interrupted([&] { return call(parts.data() + first, count, static_cast<off_t>(offset + done)); });
    if (n < 0) error = errno;
    if (n <= 0) break;
    done += static_cast<std::uint64_t>(n);
    for (auto rest = static_cast<std::size_t>(n); rest > 0;) {
      iovec& part = parts[first];
      const std::size_t taken = std::min(rest, part.iov_len);
      part.iov_base = static_cast<std::byte*>(part.iov_base) + taken;
      part.iov_len -= taken;
      rest -= taken;
      if (part.iov_len == 0) ++first;
    }
  }
  return done;
}

ByteRange range_of(std::uint64_t offset, std::uint64_t nbytes) noexcept { return {offset, offset + nbytes}; }

}  // namespace

void CacheClaim::release() noexcept {
  if (file_) file_->unclaim(range_);
  file_.reset();
}

CacheFile::CacheFile(Settings settings, UniqueFd data, UniqueFd journal) noexcept
    : settings_(std::move(settings)), data_(std::move(data)), journal_(std::move(journal)) {}

Status CacheFile::open(Settings settings, std::shared_ptr<CacheFile>& out) noexcept {
  UniqueFd data;
  UniqueFd journal;
  if (Status status = open_cache_files(settings.path, settings.object, data, journal); !status.ok()) return status;
  const auto file = std::make_shared<CacheFile>(std::move(settings), std::move(data), std::move(journal));
  if (Status status = file->check_other_boots(); !status.ok()) return status;
  out = file;
  return {};
}

Status CacheFile::remove(const std::string& path, bool& removed) noexcept { return remove_cache_files(path, removed); }

bool CacheFile::plausible(const CacheRecord& record) const noexcept {
  return record.range.start < record.range.end && record.range.end <= nbytes();
}

void CacheFile::believe(std::span<const CacheRecord> records, std::uint64_t position) noexcept {
  const std::lock_guard lock(mutex_);
  for (const CacheRecord& record : records) {
    // Of another boot's, those that held were written again under this one.
    if (plausible(record) && is_of_boot(record, settings_.boot)) covered_.add(record.range);
  }
  position_ = std::max(position_, position);
}

void CacheFile::refresh() noexcept {
  std::uint64_t position = 0;
  {
    const std::lock_guard lock(mutex_);
    position = position_;
  }
  const std::vector<CacheRecord> records = read_records(journal_.get(), position);
  believe(records, position);
}

// What was written before a crash or power cut may not have reached the drive, whatever the journal says.
Status CacheFile::check_other_boots() noexcept {
  refresh();
  if (complete()) return {};
  const auto is_foreign = [this](const CacheRecord& record) {
    return plausible(record) && !is_of_boot(record, settings_.boot) && !known(record.range);
  };
  std::uint64_t position = first_record_at();
  std::vector<CacheRecord> records = read_records(journal_.get(), position);
  if (std::ranges::none_of(records, is_foreign)) return {};
  const JournalLock checking(journal_.get(), JournalLock::kChecking);
  if (checking.error() != 0) return cache_failure("lock", path(), checking.error());
  refresh();  // somebody else may have checked while we waited
  for (CacheRecord& record : records) {
    if (!is_foreign(record)) continue;
    bool readable = true;
    if (crc_of_data(record.range, readable) != record.crc || !readable) continue;
    record.boot = settings_.boot;
    if (const int error = append_record(journal_.get(), record); error != 0) broken_ = error;
    const std::lock_guard lock(mutex_);
    covered_.add(record.range);
  }
  return {};
}

std::uint32_t CacheFile::crc_of_data(ByteRange range, bool& readable) const noexcept {
  std::vector<std::byte> buffer(std::min<std::uint64_t>(range.end - range.start, 1U << 20));
  std::uint32_t crc = 0;
  while (range.start < range.end) {
    const auto some = std::min<std::uint64_t>(range.end - range.start, buffer.size());
    const ssize_t n =
        retry_interrupted([&] { return ::pread(data_.get(), buffer.data(), some, static_cast<off_t>(range.start)); });
    readable = n > 0;
    if (!readable) break;
    crc = crc32c(crc, std::span(buffer).first(static_cast<std::size_t>(n)));
    range.start += static_cast<std::uint64_t>(n);
  }
  return crc;
}

bool CacheFile::known(ByteRange range) noexcept {
  const std::lock_guard lock(mutex_);
  return covered_.covers(range);
}

bool CacheFile::covers(std::uint64_t offset, std::uint64_t nbytes) noexcept {
  if (known(range_of(offset, nbytes))) return true;
  refresh();
  return known(range_of(offset, nbytes));
}

std::vector<ByteRange> CacheFile::missing(std::uint64_t offset, std::uint64_t nbytes) noexcept {
  refresh();
  const std::lock_guard lock(mutex_);
  return covered_.missing(range_of(offset, nbytes));
}

std::uint64_t CacheFile::covered_bytes() noexcept {
  refresh();
  const std::lock_guard lock(mutex_);
  return covered_.total();
}

Status CacheFile::read(std::uint64_t offset, std::span<const HostSpan> targets) noexcept {
  std::uint64_t wanted = 0;
  std::vector<iovec> parts;
  parts.reserve(targets.size());
  for (const HostSpan target : targets) {
    parts.push_back({target.data(), target.size()});
    wanted += target.size();
  }
  int error = 0;
  const std::uint64_t got = transfer(std::move(parts), offset, error, [this](iovec* some, int count, off_t at) {
    return ::preadv(data_.get(), some, count, at);
  });
  if (got == wanted) return {};
  Status status = cache_failure("read", path(), error);
  if (error == 0) {
    status.code = Code::kShortRead;
    status.text = path() + ": the cached file ended after " + std::to_string(offset + got) + " bytes";
  }
  status.offset = offset;
  status.nbytes = wanted;
  return status;
}

ClaimOutcome CacheFile::try_claim(std::uint64_t offset, std::uint64_t nbytes, CacheClaim& out) noexcept {
  const ByteRange range = range_of(offset, nbytes);
  if (covers(offset, nbytes)) return ClaimOutcome::kCovered;
  {
    const std::lock_guard lock(mutex_);
    if (claimed_.overlaps(range)) return ClaimOutcome::kBusy;
    claimed_.add(range);
  }
  const int error = lock_range(data_.get(), offset, nbytes, LockKind::kExclusive);
  if (error == EAGAIN) {
    const std::lock_guard lock(mutex_);
    claimed_.remove(range);
    return ClaimOutcome::kBusy;
  }
  // Where the file system has no locks, a claim holds among the users of this object only: bytes may be fetched twice.
  CacheClaim claim(shared_from_this(), range);
  if (covers(offset, nbytes)) return ClaimOutcome::kCovered;  // put between the first look and the lock
  out = std::move(claim);
  return ClaimOutcome::kClaimed;
}

void CacheFile::unclaim(ByteRange range) noexcept {
  // In this order: another thread's claim of the same range would be the same lock to the kernel.
  static_cast<void>(lock_range(data_.get(), range.start, range.end - range.start, LockKind::kNone));
  const std::lock_guard lock(mutex_);
  claimed_.remove(range);
}

bool CacheFile::put(std::uint64_t offset, std::span<const ConstHostSpan> parts) noexcept {
  if (broken_ != 0) return false;
  std::uint64_t nbytes = 0;
  for (const ConstHostSpan part : parts) nbytes += part.size();
  for (const ByteRange piece : missing(offset, nbytes)) {
    if (const int error = write_piece(offset, parts, piece); error != 0) {
      broken_ = error;
      return false;
    }
    const std::lock_guard lock(mutex_);
    covered_.add(piece);
  }
  return true;
}

// Writes the bytes of `piece` among those that stand in `parts` from `offset` on, then the record of it.
int CacheFile::write_piece(std::uint64_t offset, std::span<const ConstHostSpan> parts, ByteRange piece) noexcept {
  std::vector<iovec> some;
  CacheRecord record{piece, 0, settings_.boot};
  for (const ConstHostSpan part : parts) {
    const std::uint64_t start = std::max(offset, piece.start);
    const std::uint64_t end = std::min(offset + part.size(), piece.end);
    if (start < end) {
      const ConstHostSpan wanted = part.subspan(start - offset, end - start);
      record.crc = crc32c(record.crc, wanted);
      // pwritev(2) writes from it only, whatever iovec's type says.
      some.push_back({const_cast<std::byte*>(wanted.data()), wanted.size()});
    }
    offset += part.size();
  }
  int error = 0;
  const std::uint64_t done = transfer(
      std::move(some), piece.start, error,
      [this](iovec* some_parts, int count, off_t at) { return ::pwritev(data_.get(), some_parts, count, at); });
  if (done < piece.end - piece.start) return error != 0 ? error : ENOSPC;
  // Begins to write it out, so that little is left to wait for in the end; nothing hangs on it.
  const auto length = static_cast<off64_t>(done);
  static_cast<void>(::sync_file_range(data_.get(), static_cast<off64_t>(piece.start), length, SYNC_FILE_RANGE_WRITE));
  return append_record(journal_.get(), record);
}

Status CacheFile::publish(const std::string& target, bool replace) noexcept {
  if (!complete()) return Status::failure(Code::kMisused, path() + ": published before every byte was there");
  const std::lock_guard publishing(publishing_);  // the lock in the journal is one for all threads of this file
  {
    const std::lock_guard lock(mutex_);
    if (published_) return {};
  }
  if (retry_interrupted([this] { return ::fdatasync(data_.get()); }) != 0) {
    broken_ = errno;
    return cache_failure("fdatasync", path(), broken_);
  }
  if (Status status = publish_cache_files(path(), data_.get(), journal_.get(), target, replace); !status.ok()) {
    return status;
  }
  const std::lock_guard lock(mutex_);
  published_ = true;
  return {};
}

bool CacheFile::published() noexcept {
  const std::lock_guard lock(mutex_);
  return published_;
}

}  // namespace streamload
