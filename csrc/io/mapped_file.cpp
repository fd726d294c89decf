#include "io/mapped_file.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <system_error>

namespace streamload {

Status MappedFile::open(const std::string& path, const FileStamp& expected, std::shared_ptr<MappedFile>& out) noexcept {
  UniqueFd fd;
  if (Status status = open_stamped(path, expected, fd); !status.ok()) return status;
  void* address = nullptr;
  if (expected.nbytes > 0) {
    address = ::mmap(nullptr, expected.nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_NORESERVE, fd.get(), 0);
    if (address == MAP_FAILED) {
      Status status =
          Status::failure(Code::kReadFailed, path + ": mmap: " + std::system_category().message(errno), errno);
      status.source = path;
      return status;
    }
  }
  out = std::make_shared<MappedFile>(HostSpan(static_cast<std::byte*>(address), expected.nbytes));
  return {};
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

}  // namespace streamload
