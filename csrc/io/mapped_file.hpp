// A file mapped into memory, for CPU tensors that copy nothing.
//
// Private and writable: writing to a tensor changes the process's own pages, never the file. A file truncated
// while mapped raises SIGBUS on access, as with every mapping; the copying paths never map.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "core/spans.hpp"
#include "io/file_stamp.hpp"

namespace streamload {

class MappedFile {
 public:
  [[nodiscard]] static Status open(const std::string& path, const FileStamp& expected,
                                   std::shared_ptr<MappedFile>& out) noexcept;

  explicit MappedFile(HostSpan bytes) noexcept : bytes_(bytes) {}
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] HostSpan bytes() const noexcept { return bytes_; }

 private:
  HostSpan bytes_;
};

}  // namespace streamload
