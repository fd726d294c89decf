// How blocks of bytes become copies of the CUDA driver: the fewest calls that it takes for them.
//
// A row goes by cuMemcpyHtoDAsync, rows go by cuMemcpy2DAsync, a run of single rows goes by cuMemcpyBatchAsync. What
// the driver refuses goes row by row instead. Thread-safe. Used by CudaDevice alone.
#pragma once

#include <atomic>
#include <memory>
#include <span>

#include "device/cuda_api.hpp"
#include "device/device.hpp"

namespace streamload {

class CudaCopier {
 public:
  // What a driver call ended in, and the bytes that it was about.
  struct Outcome {
    CuResult result = CuResult::kSuccess;
    const char* call = "";
    std::size_t nbytes = 0;
    std::uintptr_t target = 0;
  };

  explicit CudaCopier(std::shared_ptr<const CudaApi> api) noexcept : api_(std::move(api)) {}

  // As Device::copy_blocks, in the current context. Stops at the first call that fails.
  [[nodiscard]] Outcome copy(std::span<const CopyBlock> blocks, CuStream stream) noexcept;

 private:
  [[nodiscard]] bool batches(CuStream stream) const noexcept;
  [[nodiscard]] Outcome copy_run(std::span<const CopyBlock> rows, CuStream stream) noexcept;
  [[nodiscard]] Outcome copy_batch(std::span<const CopyBlock> rows, CuStream stream) noexcept;
  [[nodiscard]] Outcome copy_each(std::span<const CopyBlock> rows, CuStream stream) const noexcept;
  [[nodiscard]] Outcome copy_rectangle(const CopyBlock& block, CuStream stream) noexcept;

  const std::shared_ptr<const CudaApi> api_;
  std::atomic<bool> batches_refused_{false};  // a driver that refused one is not asked again
};

}  // namespace streamload
