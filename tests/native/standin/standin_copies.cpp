// Copies to the device: one row, rows, and batches, each checked before any byte moves.
#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <span>
#include <string>

#include "standin/standin_call.hpp"

using namespace standin;  // NOLINT(google-build-using-namespace): this file is the other half of it

namespace {

using streamload::CopyBlock;
using streamload::CuMemcpyAttributes;
using streamload::CuSourceOrder;

constexpr std::size_t kMaxPitch = std::numeric_limits<std::int32_t>::max();  // as on every GPU of today

// From the first byte of the first row to the last byte of the last.
std::size_t stretch(const CopyBlock& copy, std::size_t pitch) { return (copy.rows - 1) * pitch + copy.row_bytes; }

// What every copy must be, whichever call asks for it.
CuResult check_copy(const Call& call, const Stream& stream, const CopyBlock& copy, Pinning& pinning) {
  const std::byte* target = host(CuDevicePtr{copy.target});
  const std::size_t target_bytes = stretch(copy, copy.target_pitch);
  const std::size_t source_bytes = stretch(copy, copy.source_pitch);
  const Allocation* allocation = State::get().find_allocation(target, target_bytes);
  if (allocation == nullptr || allocation->device != stream.device) {
    return call.wrong("not inside an allocation of this device: " + range(target, target_bytes),
                      CuResult::kInvalidValue);
  }
  pinning = State::get().pinning(stream.device, copy.source, source_bytes);
  if (pinning == Pinning::kPart) {
    return call.wrong("not inside one registration: " + range(copy.source, source_bytes), CuResult::kInvalidValue);
  }
  return kOk;
}

// Takes the bytes before the call returns, as CUDA does with unpinned ones.
void stage(Operation& operation) {
  CopyBlock& copy = operation.copy;
  for (std::size_t row = 0; row < copy.rows; ++row) {
    const std::byte* start = copy.source + row * copy.source_pitch;
    operation.staged.insert(operation.staged.end(), start, start + copy.row_bytes);
  }
  copy.source = operation.staged.data();
  copy.source_pitch = copy.row_bytes;
}

CuResult copy_one(const Call& call, CuStream handle, const CopyBlock& copy) {
  State& state = State::get();
  const std::shared_ptr<Stream> stream = state.find_stream(call.function, handle);
  if (stream == nullptr) return CuResult::kInvalidHandle;
  auto pinning = Pinning::kNone;
  if (const CuResult result = check_copy(call, *stream, copy, pinning); result != kOk) return result;
  Operation operation{.copy = copy};
  if (pinning == Pinning::kNone) {
    stage(operation);
    ++state.counters.unpinned_copies;
  }
  ++state.counters.copies_issued;
  state.enqueue(*stream, std::move(operation));
  return kOk;
}

// The arguments of cuMemcpyBatchAsync that describe copies.
struct Batch {
  CuDevicePtr* targets;
  CuDevicePtr* sources;
  std::size_t* sizes;
  std::size_t count;

  [[nodiscard]] CopyBlock copy(std::size_t i) const {
    return {static_cast<std::uintptr_t>(targets[i]), 0, host(sources[i]), 0, sizes[i], 1};
  }
};

CuResult check_attributes(const Call& call, std::span<const CuMemcpyAttributes> attributes,
                          std::span<const std::size_t> first, std::size_t count) {
  if (attributes.empty() || attributes.size() > count || first.front() != 0 || first.back() >= count ||
      std::ranges::adjacent_find(first, std::greater_equal<>()) != first.end()) {
    return call.wrong("attributes for other copies than there are", CuResult::kInvalidValue);
  }
  for (const CuMemcpyAttributes& one : attributes) {
    // The other orders would let a source be read ahead of an event that guards it, or make the call wait.
    if (one.source_order != CuSourceOrder::kStream) {
      return call.wrong("sources out of stream order", CuResult::kInvalidValue);
    }
    if (one.flags > streamload::kCuMemcpyPreferOverlapWithCompute) {
      return call.wrong("unknown flags", CuResult::kInvalidValue);
    }
  }
  return kOk;
}

// Nothing orders the copies of one batch, so no two may write one byte.
bool targets_overlap(const Batch& batch) {
  std::vector<std::pair<std::uintptr_t, std::size_t>> targets;
  for (std::size_t i = 0; i < batch.count; ++i) targets.emplace_back(batch.copy(i).target, batch.sizes[i]);
  std::ranges::sort(targets);
  const auto meets = [](const auto& one, const auto& next) { return one.first + one.second > next.first; };
  return std::ranges::adjacent_find(targets, meets) != targets.end();
}

CuResult check_batch(const Call& call, const Stream& stream, const Batch& batch, std::uint64_t& unpinned,
                     std::size_t& failed) {
  for (std::size_t i = 0; i < batch.count; ++i) {
    auto pinning = Pinning::kNone;
    CuResult result = kOk;
    if (batch.sizes[i] == 0) {
      result = call.wrong("a copy of no bytes", CuResult::kInvalidValue);
    } else {
      result = check_copy(call, stream, batch.copy(i), pinning);
    }
    if (result != kOk) {
      failed = i;
      return result;
    }
    unpinned += pinning == Pinning::kNone ? 1 : 0;
  }
  return targets_overlap(batch) ? call.wrong("two copies into the same bytes", CuResult::kInvalidValue) : kOk;
}

}  // namespace

STANDIN_EXPORT CuResult cuMemcpyHtoDAsync_v2(CuDevicePtr target, const void* source, std::size_t nbytes,
                                             CuStream handle) {
  const Call call("cuMemcpyHtoDAsync", Kind::kContext);
  if (call.refused()) return call.result;
  return copy_one(call, handle,
                  {static_cast<std::uintptr_t>(target), 0, static_cast<const std::byte*>(source), 0, nbytes, 1});
}

STANDIN_EXPORT CuResult cuMemcpy2DAsync_v2(const streamload::CuMemcpy2D* copy, CuStream handle) {
  using streamload::CuMemoryType;
  const Call call("cuMemcpy2DAsync", Kind::kContext);
  if (call.refused()) return call.result;
  if (copy->source_type != CuMemoryType::kHost || copy->target_type != CuMemoryType::kDevice) {
    return call.wrong("not from the host to the device", CuResult::kInvalidValue);
  }
  if (copy->source_pitch < copy->row_bytes || copy->target_pitch < copy->row_bytes) {
    return call.wrong("a pitch of less than a row", CuResult::kInvalidValue);
  }
  if (std::max(copy->source_pitch, copy->target_pitch) > kMaxPitch) return CuResult::kInvalidValue;  // no wrong of ours
  if (copy->row_bytes == 0 || copy->rows == 0) return call.wrong("a copy of no bytes", kOk);
  const auto at = [](std::size_t x, std::size_t y, std::size_t pitch) { return y * pitch + x; };
  const std::size_t target_offset = at(copy->target_x, copy->target_y, copy->target_pitch);
  const std::size_t source_offset = at(copy->source_x, copy->source_y, copy->source_pitch);
  return copy_one(call, handle,
                  {static_cast<std::uintptr_t>(copy->target_device) + target_offset, copy->target_pitch,
                   static_cast<const std::byte*>(copy->source_host) + source_offset, copy->source_pitch,
                   copy->row_bytes, copy->rows});
}

// With the signature of CUDA 12.8. The copies run last to first, which the documentation leaves open.
STANDIN_EXPORT CuResult cuMemcpyBatchAsync(CuDevicePtr* targets, CuDevicePtr* sources, std::size_t* sizes,
                                           std::size_t count, CuMemcpyAttributes* attributes,
                                           std::size_t* first_of_attributes, std::size_t attribute_count,
                                           std::size_t* failed, CuStream handle) {
  const Call call("cuMemcpyBatchAsync", Kind::kContext);
  if (call.refused()) return call.result;
  State& state = State::get();
  *failed = std::numeric_limits<std::size_t>::max();
  if (static_cast<std::uintptr_t>(handle) <= 1) return call.wrong("the legacy stream", CuResult::kInvalidValue);
  const std::shared_ptr<Stream> stream = state.find_stream(call.function, handle);
  if (stream == nullptr) return CuResult::kInvalidHandle;
  const Batch batch{targets, sources, sizes, count};
  CuResult result =
      check_attributes(call, {attributes, attribute_count}, {first_of_attributes, attribute_count}, count);
  std::uint64_t unpinned = 0;
  if (result == kOk) result = check_batch(call, *stream, batch, unpinned, *failed);
  if (result != kOk) return result;
  std::size_t issued = count;
  if (result = state.planned("batch"); result != kOk) issued = *failed = count / 2;
  // Unpinned sources are not staged: in stream order means that they too may be read when their turn comes.
  for (std::size_t i = issued; i-- > 0;) state.enqueue(*stream, {.copy = batch.copy(i)});
  state.counters.copies_issued += issued;
  state.counters.unpinned_copies += unpinned;
  return result;
}

STANDIN_EXPORT CuResult cuMemsetD8Async(CuDevicePtr target, unsigned char value, std::size_t nbytes, CuStream handle) {
  const Call call("cuMemsetD8Async", Kind::kContext);
  if (call.refused()) return call.result;
  State& state = State::get();
  const std::shared_ptr<Stream> stream = state.find_stream(call.function, handle);
  if (stream == nullptr) return CuResult::kInvalidHandle;
  const Allocation* allocation = state.find_allocation(host(target), nbytes);
  if (allocation == nullptr || allocation->device != stream->device) {
    return call.wrong("not inside an allocation of this device: " + range(host(target), nbytes),
                      CuResult::kInvalidValue);
  }
  Operation operation{.copy = {static_cast<std::uintptr_t>(target), 0, nullptr, 0, nbytes, 1}};
  operation.staged.assign(nbytes, std::byte{value});
  operation.copy.source = operation.staged.data();
  state.enqueue(*stream, std::move(operation));
  return kOk;
}
