#include "device/device.hpp"

#include <algorithm>
#include <chrono>

namespace streamload {

Status Device::copy(DeviceSpan target, ConstHostSpan source, StreamView stream) noexcept {
  if (target.nbytes != source.size()) {
    return Status::failure(Code::kInvalid, "copy of " + std::to_string(source.size()) + " bytes to " +
                                               std::to_string(target.nbytes) + " on " + name());
  }
  const CopyBlock block{target.address, 0, source.data(), 0, source.size(), 1};
  return copy_blocks({&block, 1}, stream);
}

Status Device::time_copies(std::span<const CopyBlock> blocks, std::size_t blocks_per_call, int repeats,
                           std::vector<double>& seconds) {
  using Clock = std::chrono::steady_clock;
  StreamView stream;
  EventView event;
  if (Status status = create_stream(stream); !status.ok()) return status;
  Status status = create_event(event);
  seconds.clear();
  for (int repeat = 0; repeat < repeats && status.ok(); ++repeat) {
    const auto start = Clock::now();
    status = copy_and_wait(blocks, blocks_per_call == 0 ? blocks.size() : blocks_per_call, stream, event);
    seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  destroy_stream(stream);  // waits for what a failure left under way
  destroy_event(event);
  return status;
}

Status Device::copy_and_wait(std::span<const CopyBlock> blocks, std::size_t blocks_per_call, StreamView stream,
                             EventView event) {
  Status status;
  while (!blocks.empty() && status.ok()) {
    const auto some = blocks.first(std::min(blocks.size(), blocks_per_call));
    status = copy_blocks(some, stream);
    blocks = blocks.subspan(some.size());
  }
  if (status.ok()) status = record(event, stream);
  return status.ok() ? synchronize(event) : status;
}

}  // namespace streamload
