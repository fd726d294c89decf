#include "device/device.hpp"

namespace streamload {

Status Device::copy(DeviceSpan target, ConstHostSpan source, StreamView stream) noexcept {
  if (target.nbytes != source.size()) {
    return Status::failure(Code::kInvalid, "copy of " + std::to_string(source.size()) + " bytes to " +
                                               std::to_string(target.nbytes) + " on " + name());
  }
  const CopyBlock block{target.address, 0, source.data(), 0, source.size(), 1};
  return copy_blocks({&block, 1}, stream);
}

}  // namespace streamload
