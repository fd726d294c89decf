#include "device/cuda_copier.hpp"

#include <algorithm>
#include <array>
#include <limits>

namespace streamload {
namespace {

// Of one driver call: enough to make the cost of a call small, and arrays of 6 KiB that the stack can hold.
constexpr std::size_t kMostInBatch = 256;

// The driver says no to the way of asking, not to the bytes: the same rows may do as plain copies. Where it is the
// bytes after all, the plain copy says so, and names them.
bool refused(CuResult result) noexcept {
  return result == CuResult::kInvalidValue || result == CuResult::kNotSupported;
}

std::size_t total_bytes(std::span<const CopyBlock> blocks) noexcept {
  std::size_t total = 0;
  for (const CopyBlock& block : blocks) total += block.nbytes();
  return total;
}

}  // namespace

CudaCopier::Outcome CudaCopier::copy(std::span<const CopyBlock> blocks, CuStream stream) noexcept {
  Outcome outcome;
  std::size_t first = 0;
  while (first < blocks.size() && outcome.result == CuResult::kSuccess) {
    const auto rest = blocks.subspan(first);
    const auto end = std::ranges::find_if(rest, [](const CopyBlock& block) { return block.rows > 1; });
    const auto rows = rest.first(static_cast<std::size_t>(end - rest.begin()));
    outcome = rows.empty() ? copy_rectangle(rest.front(), stream) : copy_run(rows, stream);
    first += std::max<std::size_t>(rows.size(), 1);
  }
  return outcome;
}

// The legacy default stream is the one stream that a batch cannot go to (Driver API, cuMemcpyBatchAsync).
bool CudaCopier::batches(CuStream stream) const noexcept {
  constexpr CuStream kLegacy{1};
  return api_->memcpy_batch_async != nullptr && stream != CuStream{} && stream != kLegacy && !batches_refused_;
}

CudaCopier::Outcome CudaCopier::copy_run(std::span<const CopyBlock> rows, CuStream stream) noexcept {
  Outcome outcome;
  while (!rows.empty() && outcome.result == CuResult::kSuccess) {
    const auto some = rows.first(std::min(rows.size(), kMostInBatch));
    rows = rows.subspan(some.size());
    if (some.size() > 1 && batches(stream)) {
      outcome = copy_batch(some, stream);
      if (!refused(outcome.result)) continue;
      batches_refused_ = true;
    }
    // Also behind a batch that was refused: what it may have begun comes again, the same bytes to the same place.
    outcome = copy_each(some, stream);
  }
  return outcome;
}

CudaCopier::Outcome CudaCopier::copy_batch(std::span<const CopyBlock> rows, CuStream stream) noexcept {
  std::array<CuDevicePtr, kMostInBatch> targets;
  std::array<CuDevicePtr, kMostInBatch> sources;
  std::array<std::size_t, kMostInBatch> sizes;
  std::size_t count = 0;
  for (const CopyBlock& row : rows) {
    if (row.nbytes() == 0) continue;  // wrong in a batch
    targets[count] = CuDevicePtr{row.target};
    sources[count] = CuDevicePtr{reinterpret_cast<std::uintptr_t>(row.source)};
    sizes[count++] = row.row_bytes;
  }
  if (count == 0) return {};
  // In stream order: a source is not read after an event that was recorded behind its batch, nor before an event that
  // the stream was made to wait for. The hint: a model computes meanwhile.
  CuMemcpyAttributes attributes;
  attributes.source_order = CuSourceOrder::kStream;
  attributes.flags = kCuMemcpyPreferOverlapWithCompute;
  std::size_t from_the_first = 0;
  std::size_t failed = std::numeric_limits<std::size_t>::max();
  const CuResult result = api_->memcpy_batch_async(targets.data(), sources.data(), sizes.data(), count, &attributes,
                                                   &from_the_first, 1, &failed, stream);
  if (result == CuResult::kSuccess) return {};
  if (failed < count) {
    return {result, "cuMemcpyBatchAsync", sizes.at(failed), static_cast<std::uintptr_t>(targets.at(failed))};
  }
  return {result, "cuMemcpyBatchAsync", total_bytes(rows), 0};
}

CudaCopier::Outcome CudaCopier::copy_each(std::span<const CopyBlock> rows, CuStream stream) const noexcept {
  for (const CopyBlock& row : rows) {
    if (row.nbytes() == 0) continue;
    const CuResult result = api_->memcpy_htod_async(CuDevicePtr{row.target}, row.source, row.row_bytes, stream);
    if (result != CuResult::kSuccess) return {result, "cuMemcpyHtoDAsync", row.row_bytes, row.target};
  }
  return {};
}

CudaCopier::Outcome CudaCopier::copy_rectangle(const CopyBlock& block, CuStream stream) noexcept {
  if (block.nbytes() == 0) return {};
  CuMemcpy2D copy;
  copy.source_host = block.source;
  copy.source_pitch = block.source_pitch;
  copy.target_device = CuDevicePtr{block.target};
  copy.target_pitch = block.target_pitch;
  copy.row_bytes = block.row_bytes;
  copy.rows = block.rows;
  const CuResult result = api_->memcpy_2d_async(&copy, stream);
  if (!refused(result)) return {result, "cuMemcpy2DAsync", block.nbytes(), block.target};
  // A pitch above CU_DEVICE_ATTRIBUTE_MAX_PITCH, most likely; the next rectangle may have a smaller one.
  Outcome outcome;
  std::array<CopyBlock, kMostInBatch> rows;
  for (std::size_t row = 0; row < block.rows && outcome.result == CuResult::kSuccess;) {
    std::size_t count = 0;
    for (; count < rows.size() && row < block.rows; ++count, ++row) {
      rows[count] = {
          block.target + row * block.target_pitch, 0, block.source + row * block.source_pitch, 0, block.row_bytes, 1};
    }
    outcome = copy_run(std::span(rows).first(count), stream);
  }
  return outcome;
}

}  // namespace streamload
