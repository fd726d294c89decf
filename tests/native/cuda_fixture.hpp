// What the CUDA tests share: the stand-in driver, fresh for each test and checked to be clean after it.
#pragma once

#include <algorithm>
#include <array>
#include <memory>
#include <span>
#include <vector>

#include "check.hpp"
#include "device/cuda_device.hpp"
#include "standin/standin.hpp"

namespace cuda_tests {

using namespace streamload;  // NOLINT(google-build-using-namespace): a header of tests only

// "0: " says that nothing is wrong and nothing left.
class Driver {
 public:
  Driver() : standin_(open_standin(STREAMLOAD_STANDIN_PATH)) { standin_.reset(); }
  Driver(const Driver&) = delete;
  Driver& operator=(const Driver&) = delete;
  ~Driver() {
    CHECK_EQ(standin_.violation_text(), "0: ");
    CHECK_EQ(standin_.live_text(), "0: ");
    standin_.reset();
  }
  const Standin* operator->() const noexcept { return &standin_; }

 private:
  Standin standin_;
};

// The stand-in's own functions, for calls that CudaDevice does not make.
inline CudaApi functions_of(const Driver& driver) {
  CudaApi api;
  const auto find = [&](const char* symbol) { return reinterpret_cast<AnyFunction>(dlsym(driver->library, symbol)); };
  CHECK_EQ(CudaApi::resolve("stand-in", find, api).text, "");
  return api;
}

inline std::shared_ptr<CudaDevice> open_device(int ordinal = 0) {
  std::shared_ptr<CudaDevice> device;
  const Status status = CudaDevice::make(ordinal, STREAMLOAD_STANDIN_PATH, device);
  CHECK_EQ(status.text, "");
  REQUIRE(device != nullptr);
  return device;
}

// Device memory that frees itself.
class Block {
 public:
  Block(const std::shared_ptr<Device>& device, std::size_t nbytes) : device_(device) {
    CHECK_EQ(device->allocate(nbytes, span_).text, "");
  }
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;
  ~Block() { device_->deallocate(span_); }
  [[nodiscard]] DeviceSpan span() const noexcept { return span_; }
  // Device memory of the stand-in is host memory; no driver call, so no order but the test's own.
  [[nodiscard]] std::vector<std::byte> peek() const {
    const auto* bytes = reinterpret_cast<const std::byte*>(span_.address);  // NOLINT(performance-no-int-to-ptr)
    return {bytes, bytes + span_.nbytes};
  }

 private:
  std::shared_ptr<Device> device_;
  DeviceSpan span_;
};

// Host memory that is pinned for as long as it lives.
class Pinned {
 public:
  Pinned(const std::shared_ptr<Device>& device, std::size_t nbytes, std::byte fill)
      : device_(device), bytes(nbytes, fill) {
    CHECK_EQ(device->pin(bytes).text, "");
  }
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;
  ~Pinned() { device_->unpin(bytes); }

 private:
  std::shared_ptr<Device> device_;

 public:
  std::vector<std::byte> bytes;
};

// Bytes no two neighbours of which are alike, in any row length.
inline std::vector<std::byte> pattern(std::size_t nbytes) {
  std::vector<std::byte> bytes(nbytes);
  for (std::size_t i = 0; i < nbytes; ++i) bytes[i] = std::byte((i * 131 + i / 251) & 0xFF);
  return bytes;
}

// What the target holds when every block has landed, row by row, over what it held before.
inline std::vector<std::byte> expected_after(std::span<const CopyBlock> blocks, DeviceSpan target,
                                             std::vector<std::byte> before) {
  for (const CopyBlock& block : blocks) {
    for (std::size_t row = 0; row < block.rows; ++row) {
      const std::byte* from = block.source + row * block.source_pitch;
      const auto offset = static_cast<std::ptrdiff_t>(block.target - target.address + row * block.target_pitch);
      std::copy(from, from + block.row_bytes, before.begin() + offset);
    }
  }
  return before;
}

inline Stream make_stream(const std::shared_ptr<Device>& device) {
  Stream stream;
  CHECK_EQ(Stream::make(device, stream).text, "");
  return stream;
}

inline Event make_event(const std::shared_ptr<Device>& device) {
  Event event;
  CHECK_EQ(Event::make(device, event).text, "");
  return event;
}

}  // namespace cuda_tests
