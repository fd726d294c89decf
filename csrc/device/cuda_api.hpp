// The CUDA driver's entry points, found at run time: our own declarations, no toolkit to build against.
//
// Types, constants and signatures follow the CUDA Driver API (cuda.h) in its CUDA 11.0 ABI, which every later
// driver still offers; what is newer is optional and says so. tests/native/test_cuda_header.cpp compares them with
// cuda.h where a toolkit is installed. CudaDevice is the only user. A loaded CudaApi is immutable, so any thread may
// call through it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "core/status.hpp"

namespace streamload {

// The values of CUresult that the code decides on; every other value passes through as a number.
enum class CuResult : unsigned {
  kSuccess = 0,
  kInvalidValue = 1,
  kOutOfMemory = 2,
  kNotInitialized = 3,
  kDeinitialized = 4,
  kNoDevice = 100,
  kInvalidDevice = 101,
  kInvalidContext = 201,
  kInvalidHandle = 400,
  kNotFound = 500,
  kNotReady = 600,
  kIllegalAddress = 700,
  kContextIsDestroyed = 709,
  kHostMemoryAlreadyRegistered = 712,
  kHostMemoryNotRegistered = 713,
  kNotSupported = 801,
};

// Handles are integers of a type of their own: pointer-sized in the driver's ABI, never dereferenced here.
enum class CuContext : std::uintptr_t {};
enum class CuStream : std::uintptr_t {};
enum class CuEvent : std::uintptr_t {};
enum class CuDevicePtr : unsigned long long {};
enum class CuCaptureMode : unsigned { kGlobal = 0, kThreadLocal = 1, kRelaxed = 2 };
using CuDevice = int;

inline constexpr unsigned kCuStreamNonBlocking = 0x1;
inline constexpr unsigned kCuEventBlockingSync = 0x1;
inline constexpr unsigned kCuEventDisableTiming = 0x2;
inline constexpr unsigned kCuMemHostRegisterPortable = 0x1;
inline constexpr int kCuAttributeComputeCapabilityMajor = 75;
inline constexpr int kCuAttributeComputeCapabilityMinor = 76;
inline constexpr std::uint64_t kCuGetProcAddressLegacyStream = 0x1;
inline constexpr unsigned kCuMemcpyPreferOverlapWithCompute = 0x1;

enum class CuMemoryType : unsigned { kHost = 1, kDevice = 2 };

// CUDA_MEMCPY2D_v2. Of host and device address, the type says which one counts.
struct CuMemcpy2D {
  std::size_t source_x = 0;
  std::size_t source_y = 0;
  CuMemoryType source_type = CuMemoryType::kHost;
  const void* source_host = nullptr;
  CuDevicePtr source_device{};
  std::uintptr_t source_array = 0;
  std::size_t source_pitch = 0;
  std::size_t target_x = 0;
  std::size_t target_y = 0;
  CuMemoryType target_type = CuMemoryType::kDevice;
  void* target_host = nullptr;
  CuDevicePtr target_device{};
  std::uintptr_t target_array = 0;
  std::size_t target_pitch = 0;
  std::size_t row_bytes = 0;
  std::size_t rows = 0;
};

// When the sources of a batch may be read: kStream is behind all earlier work and before all later work of the stream.
enum class CuSourceOrder : unsigned { kInvalid = 0, kStream = 1, kDuringCall = 2, kAny = 3 };

// CUmemcpyAttributes_v1. The locations are hints for managed memory only; zeros say nothing.
struct CuMemcpyAttributes {
  CuSourceOrder source_order = CuSourceOrder::kInvalid;
  std::array<int, 2> source_location{};  // type, id
  std::array<int, 2> target_location{};
  unsigned flags = 0;
};

// The ABI asked for and the oldest driver served: cuDevicePrimaryCtxRelease_v2 came with CUDA 11.0, the rest earlier.
inline constexpr int kCudaVersion = 11000;
// The ABI of cuMemcpyBatchAsync: CUDA 12.8 brought it. CUDA 13.0 dropped `failed` from it under a name of its own,
// and its drivers still offer this one to who asks for 12.8 (cudaTypedefs.h, PFN_cuMemcpyBatchAsync_v12080).
inline constexpr int kCudaVersionOfBatches = 12080;

using AnyFunction = void (*)();
// The address of an exported symbol, or null.
using SymbolLookup = std::function<AnyFunction(const char* symbol)>;

struct CudaApi {
  // Loads the driver library (a name for the dynamic loader, or a path), finds every entry point and calls cuInit.
  // Every failure is kNoDevice: no library, a symbol missing, a driver older than CUDA 11.0, cuInit refused.
  // The library is never unloaded: the driver runs threads and exit handlers of its own and other users of the
  // process (torch) share it, so unloading could only crash. Hence no handle is kept.
  [[nodiscard]] static Status load(const std::string& library, std::shared_ptr<const CudaApi>& out);

  // The part of `load` between opening the library and cuInit, for any source of symbols. Asks cuGetProcAddress_v2
  // where it is exported (CUDA 12), else cuGetProcAddress (11.3), else takes the exported symbols themselves.
  [[nodiscard]] static Status resolve(const std::string& library, const SymbolLookup& lookup, CudaApi& out);

  // "CUDA_ERROR_OUT_OF_MEMORY (out of memory)", in the driver's own words.
  [[nodiscard]] std::string describe(CuResult result) const;

  int driver_version = 0;  // 1000 * major + 10 * minor

  CuResult (*driver_get_version)(int* version) = nullptr;
  CuResult (*init)(unsigned flags) = nullptr;
  CuResult (*get_error_name)(CuResult result, const char** text) = nullptr;
  CuResult (*get_error_string)(CuResult result, const char** text) = nullptr;

  CuResult (*device_get_count)(int* count) = nullptr;
  CuResult (*device_get)(CuDevice* device, int ordinal) = nullptr;
  CuResult (*device_get_name)(char* name, int nbytes, CuDevice device) = nullptr;
  CuResult (*device_get_attribute)(int* value, int attribute, CuDevice device) = nullptr;
  CuResult (*device_get_pci_bus_id)(char* id, int nbytes, CuDevice device) = nullptr;
  CuResult (*device_total_mem)(std::size_t* nbytes, CuDevice device) = nullptr;

  CuResult (*primary_ctx_retain)(CuContext* context, CuDevice device) = nullptr;
  CuResult (*primary_ctx_release)(CuDevice device) = nullptr;
  CuResult (*ctx_get_current)(CuContext* context) = nullptr;
  CuResult (*ctx_set_current)(CuContext context) = nullptr;
  CuResult (*ctx_push_current)(CuContext context) = nullptr;
  CuResult (*ctx_pop_current)(CuContext* context) = nullptr;
  CuResult (*thread_exchange_capture_mode)(CuCaptureMode* mode) = nullptr;

  CuResult (*stream_create)(CuStream* stream, unsigned flags) = nullptr;
  CuResult (*stream_destroy)(CuStream stream) = nullptr;
  CuResult (*stream_synchronize)(CuStream stream) = nullptr;
  CuResult (*stream_wait_event)(CuStream stream, CuEvent event, unsigned flags) = nullptr;

  CuResult (*event_create)(CuEvent* event, unsigned flags) = nullptr;
  CuResult (*event_destroy)(CuEvent event) = nullptr;
  CuResult (*event_record)(CuEvent event, CuStream stream) = nullptr;
  CuResult (*event_query)(CuEvent event) = nullptr;
  CuResult (*event_synchronize)(CuEvent event) = nullptr;
  CuResult (*event_elapsed_time)(float* milliseconds, CuEvent start, CuEvent end) = nullptr;

  CuResult (*mem_alloc)(CuDevicePtr* address, std::size_t nbytes) = nullptr;
  CuResult (*mem_free)(CuDevicePtr address) = nullptr;
  CuResult (*mem_host_register)(void* address, std::size_t nbytes, unsigned flags) = nullptr;
  CuResult (*mem_host_unregister)(void* address) = nullptr;
  CuResult (*memcpy_htod_async)(CuDevicePtr target, const void* source, std::size_t nbytes, CuStream stream) = nullptr;
  CuResult (*memcpy_2d_async)(const CuMemcpy2D* copy, CuStream stream) = nullptr;
  // Null where the driver has none. Takes no legacy default stream. Among themselves the copies have no order.
  // `failed` is the copy that was wrong, or SIZE_MAX.
  CuResult (*memcpy_batch_async)(CuDevicePtr* targets, CuDevicePtr* sources, std::size_t* sizes, std::size_t count,
                                 CuMemcpyAttributes* attributes, std::size_t* first_of_attributes,
                                 std::size_t attribute_count, std::size_t* failed, CuStream stream) = nullptr;
  CuResult (*memset_d8_async)(CuDevicePtr target, unsigned char value, std::size_t nbytes, CuStream stream) = nullptr;
  CuResult (*memcpy_dtoh)(void* target, CuDevicePtr source, std::size_t nbytes) = nullptr;
};

}  // namespace streamload
