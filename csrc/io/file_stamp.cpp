#include "io/file_stamp.hpp"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <system_error>

#include "io/interrupted.hpp"

namespace streamload {
namespace {

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

Status check_descriptor(int fd, const std::string& path, const FileStamp& expected) {
  struct stat facts{};
  if (retry_interrupted([&] { return ::fstat(fd, &facts); }) != 0) {
    return system_failure(Code::kReadFailed, path, "fstat", errno);
  }
  const FileStamp found = stamp_of(facts);
  return found == expected ? Status{} : changed(path, expected, found);
}

}  // namespace

Status open_stamped(const std::string& path, const FileStamp& expected, UniqueFd& out, int extra_flags) noexcept {
  // O_NONBLOCK: a FIFO put in the file's place must not be waited for. It means nothing to a regular file.
  const int flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY | extra_flags;
  UniqueFd fd(retry_interrupted([&] { return ::open(path.c_str(), flags); }));
  if (!fd) {
    const int error = errno;
    const Code code = error == ENOENT                     ? Code::kNotFound
                      : error == EACCES || error == EPERM ? Code::kPermission
                                                          : Code::kReadFailed;
    return system_failure(code, path, "open", error);
  }
  if (Status status = check_descriptor(fd.get(), path, expected); !status.ok()) return status;
  out = std::move(fd);
  return {};
}

Status check_stamp(int fd, const std::string& path, const FileStamp& expected) noexcept {
  if (Status status = check_descriptor(fd, path, expected); !status.ok()) return status;
  // A deleted file still holds its bytes behind our descriptor; another file under its name is a new checkpoint.
  struct stat facts{};
  if (retry_interrupted([&] { return ::stat(path.c_str(), &facts); }) != 0) return {};
  const FileStamp found = stamp_of(facts);
  return found == expected ? Status{} : changed(path, expected, found);
}

}  // namespace streamload
