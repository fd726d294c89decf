// What a native call says when it fails: a value that crosses threads, and the one exception that carries it.
//
// Worker threads are noexcept and end in a Status. `Error` is thrown only on a caller's thread, and only by
// `throw_if_error`; `_engine` maps `Code` to Python classes in one table.
#pragma once

#include <cstdint>
#include <exception>
#include <string>
#include <string_view>
#include <utility>

namespace streamload {

enum class Code : std::uint8_t {
  kOk = 0,
  kInvalid,         // an argument breaks the contract
  kMisused,         // a call that what was called before forbids
  kNotFound,        // the file is not there
  kPermission,      // the file may not be opened
  kReadFailed,      // a read returned an error
  kShortRead,       // the source ended before the bytes it promised
  kChanged,         // the file is not the one whose header was read
  kChecksum,        // the bytes are not those that were summed
  kCallbackFailed,  // a callback source raised
  kNoLibrary,       // a library that is loaded at run time is not there
  kNoDevice,        // no driver, or no such device
  kDeviceFailed,    // a driver call failed
  kOutOfDeviceMemory,
  kOutOfPinnedMemory,
  kOutOfHostMemory,
  kCancelled,
  kClosed,
  kForked,  // a parent's load used in a forked child
};

[[nodiscard]] std::string_view code_name(Code code) noexcept;

struct Status {
  Code code = Code::kOk;
  std::int64_t system_code = 0;  // errno, or the driver's CUresult where code is a device code
  std::string source;            // path or URL, empty where none is concerned
  std::uint64_t offset = 0;      // first byte of the failed read
  std::uint64_t nbytes = 0;      // bytes asked for
  std::string text;              // what happened, got against expected
  // Of a checksum that differs: whose it is, by the plan's count, and both values.
  std::size_t key = 0;
  std::uint32_t expected = 0;
  std::uint32_t actual = 0;

  [[nodiscard]] bool ok() const noexcept { return code == Code::kOk; }
  [[nodiscard]] static Status failure(Code code, std::string text, std::int64_t system_code = 0) {
    Status status;
    status.code = code;
    status.system_code = system_code;
    status.text = std::move(text);
    return status;
  }
};

class Error : public std::exception {
 public:
  explicit Error(Status status) : status_(std::move(status)) {}
  [[nodiscard]] const Status& status() const noexcept { return status_; }
  [[nodiscard]] const char* what() const noexcept override { return status_.text.c_str(); }

 private:
  Status status_;
};

void throw_if_error(Status status);

}  // namespace streamload
