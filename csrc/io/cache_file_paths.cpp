#include "io/cache_file_paths.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <system_error>

#include "io/cache_file.hpp"
#include "io/interrupted.hpp"
#include "io/range_lock.hpp"

namespace streamload {
namespace {

constexpr int kFlags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
constexpr mode_t kMode = S_IRUSR | S_IWUSR;

UniqueFd open_file(const std::string& path, int extra_flags) noexcept {
  return UniqueFd(retry_interrupted([&] { return ::open(path.c_str(), kFlags | extra_flags, kMode); }));
}

// Whether the name still means the open file.
bool is_named(int fd, const std::string& path) noexcept {
  struct stat open_one{};
  struct stat named{};
  return ::fstat(fd, &open_one) == 0 && ::lstat(path.c_str(), &named) == 0 && open_one.st_dev == named.st_dev &&
         open_one.st_ino == named.st_ino;
}

std::int64_t size_of(int fd) noexcept {
  struct stat facts{};
  return ::fstat(fd, &facts) == 0 ? static_cast<std::int64_t>(facts.st_size) : -1;
}

bool exists(const std::string& path) noexcept {
  struct stat facts{};
  return ::lstat(path.c_str(), &facts) == 0;
}

int unlink_if_there(const std::string& path) noexcept {
  return ::unlink(path.c_str()) == 0 || errno == ENOENT ? 0 : errno;
}

// Under the lock of the names: the journal first gets its header, then the data file appears.
int make_files(const std::string& path, const JournalHeader& object, int journal, UniqueFd& data) noexcept {
  if (const int error = unlink_if_there(path); error != 0) return error;
  if (const int error = write_header(journal, object); error != 0) return error;
  data = open_file(path, O_CREAT | O_EXCL);
  if (!data) return errno;
  const auto length = static_cast<off_t>(object.nbytes);
  return retry_interrupted([&] { return ::ftruncate(data.get(), length); }) == 0 ? 0 : errno;
}

// Makes the rename durable, as far as the file system does that; nothing hangs on it.
void sync_directory_of(const std::string& path) noexcept {
  const std::size_t slash = path.rfind('/');
  const std::string directory = slash == std::string::npos ? "." : path.substr(0, slash + 1);
  const UniqueFd fd(retry_interrupted([&] { return ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC); }));
  if (fd) static_cast<void>(::fsync(fd.get()));
}

int rename_file(const std::string& from, const std::string& to, bool replace) noexcept {
  if (replace) return ::rename(from.c_str(), to.c_str()) == 0 ? 0 : errno;
  constexpr unsigned kNoReplace = 1;  // RENAME_NOREPLACE, rename(2)
  if (::renameat2(AT_FDCWD, from.c_str(), AT_FDCWD, to.c_str(), kNoReplace) == 0) return 0;
  if (errno != EINVAL && errno != ENOSYS) return errno;
  // A file system without it. A link never replaces.
  if (::link(from.c_str(), to.c_str()) != 0) return errno;
  return unlink_if_there(from);
}

}  // namespace

JournalLock::JournalLock(int fd, Kind kind) noexcept
    : fd_(fd), kind_(kind), error_(lock_range(fd, kind, 1, LockKind::kExclusive, LockWait::kYes)) {}

JournalLock::~JournalLock() {
  if (error_ == 0) static_cast<void>(lock_range(fd_, kind_, 1, LockKind::kNone));
}

Status cache_failure(const char* call, const std::string& path, int error) {
  Status status =
      Status::failure(Code::kReadFailed, path + ": " + call + ": " + std::system_category().message(error), error);
  if (error == EACCES || error == EPERM) status.code = Code::kPermission;
  status.source = path;
  return status;
}

bool is_of_boot(const CacheRecord& record, const BootId& boot) noexcept {
  return record.boot == boot && boot != BootId{};
}

Status open_cache_files(const std::string& path, const JournalHeader& object, UniqueFd& data,
                        UniqueFd& journal) noexcept {
  const std::string journal_path = CacheFile::journal_path(path);
  for (;;) {
    journal = open_file(journal_path, O_CREAT | O_APPEND);
    if (!journal) return cache_failure("open", journal_path, errno);
    const JournalLock names(journal.get(), JournalLock::kNames);
    if (names.error() != 0) return cache_failure("lock", journal_path, names.error());
    if (!is_named(journal.get(), journal_path)) continue;  // removed while we waited
    int error = 0;
    if (size_of(journal.get()) == 0) {
      error = make_files(path, object, journal.get(), data);
    } else {
      data = open_file(path, 0);
      if (!data && errno != ENOENT) return cache_failure("open", path, errno);
      if (!data || !has_header(journal.get(), object) || size_of(data.get()) != static_cast<off_t>(object.nbytes)) {
        error = unlink_if_there(path);
        if (error == 0) error = unlink_if_there(journal_path);
        if (error == 0) continue;
      }
    }
    if (error != 0) {
      static_cast<void>(unlink_if_there(path));
      static_cast<void>(unlink_if_there(journal_path));
      return cache_failure("create", path, error);
    }
    error = lock_range(journal.get(), JournalLock::kPresence, 1, LockKind::kShared);
    return error == 0 ? Status{} : cache_failure("lock", journal_path, error);
  }
}

Status remove_cache_files(const std::string& path, bool& removed) noexcept {
  removed = false;
  const std::string journal_path = CacheFile::journal_path(path);
  const UniqueFd journal = open_file(journal_path, O_CREAT | O_APPEND);
  if (!journal) return cache_failure("open", journal_path, errno);
  // Without waiting: who holds a lock has the files in use.
  for (const auto kind : {JournalLock::kNames, JournalLock::kPresence}) {
    if (const int error = lock_range(journal.get(), kind, 1, LockKind::kExclusive); error != 0) {
      return error == EAGAIN ? Status{} : cache_failure("lock", journal_path, error);
    }
  }
  if (!is_named(journal.get(), journal_path)) return {};
  int error = unlink_if_there(path);
  if (error == 0) error = unlink_if_there(journal_path);
  removed = error == 0;
  return removed ? Status{} : cache_failure("unlink", path, error);
}

Status publish_cache_files(const std::string& path, int data, int journal, const std::string& target,
                           bool replace) noexcept {
  const std::string journal_path = CacheFile::journal_path(path);
  const JournalLock names(journal, JournalLock::kNames);
  if (names.error() != 0) return cache_failure("lock", journal_path, names.error());
  if (!is_named(data, path)) {
    if (exists(target)) return {};
    return cache_failure("publish", path, ENOENT);  // removed by somebody who took it for stale
  }
  int error = rename_file(path, target, replace);
  if (error == EEXIST && !replace) error = unlink_if_there(path);
  if (error != 0) return cache_failure("rename", path, error);
  sync_directory_of(target);
  if (is_named(journal, journal_path)) error = unlink_if_there(journal_path);
  return {};
}

}  // namespace streamload
