#include "core/status.hpp"

namespace streamload {

std::string_view code_name(Code code) noexcept {
  switch (code) {
    case Code::kOk: return "ok";
    case Code::kInvalid: return "invalid";
    case Code::kMisused: return "misused";
    case Code::kNotFound: return "not_found";
    case Code::kPermission: return "permission";
    case Code::kReadFailed: return "read_failed";
    case Code::kShortRead: return "short_read";
    case Code::kChanged: return "changed";
    case Code::kChecksum: return "checksum";
    case Code::kCallbackFailed: return "callback_failed";
    case Code::kNoLibrary: return "no_library";
    case Code::kNoDevice: return "no_device";
    case Code::kDeviceFailed: return "device_failed";
    case Code::kOutOfDeviceMemory: return "out_of_device_memory";
    case Code::kOutOfPinnedMemory: return "out_of_pinned_memory";
    case Code::kOutOfHostMemory: return "out_of_host_memory";
    case Code::kCancelled: return "cancelled";
    case Code::kClosed: return "closed";
    case Code::kForked: return "forked";
  }
  return "unknown";
}

void throw_if_error(Status status) {
  if (!status.ok()) throw Error(std::move(status));
}

}  // namespace streamload
