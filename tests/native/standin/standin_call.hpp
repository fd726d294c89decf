// One call into the stand-in driver, and the declarations of all the functions it exports.
#pragma once

#include <array>
#include <cstdio>
#include <mutex>
#include <string>
#include <type_traits>

#include "standin/standin_state.hpp"

// Protected: calls and addresses within the library stay within it, even where a real driver is loaded too.
#define STANDIN_EXPORT extern "C" __attribute__((visibility("protected")))

namespace standin {

inline constexpr CuResult kOk = CuResult::kSuccess;

// A call in progress: the lock and the result it starts with.
struct Call {
  Call(const char* name, Kind kind)
      : function(name), lock(State::get().mutex), result(State::get().begin(name, kind)) {}
  [[nodiscard]] bool refused() const { return result != kOk; }
  // Tells a violation and what CUDA answers to it.
  CuResult wrong(const std::string& text, CuResult answer) const {
    State::get().violation(std::string(function) + ": " + text);
    return answer;
  }

  const char* function;
  std::unique_lock<std::mutex> lock;
  CuResult result;
};

inline std::string range(const void* address, std::size_t nbytes) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%zu bytes at %p", nbytes, address);
  return text.data();
}

template <auto Member>
using Signature = std::remove_pointer_t<std::remove_cvref_t<decltype(std::declval<streamload::CudaApi&>().*Member)>>;

}  // namespace standin

// Declared with the types that the library calls through: a definition that differs does not compile.
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::driver_get_version> cuDriverGetVersion;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::init> cuInit;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::get_error_name> cuGetErrorName;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::get_error_string> cuGetErrorString;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::device_get_count> cuDeviceGetCount;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::device_get> cuDeviceGet;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::device_get_name> cuDeviceGetName;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::device_get_attribute> cuDeviceGetAttribute;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::device_get_pci_bus_id> cuDeviceGetPCIBusId;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::device_total_mem> cuDeviceTotalMem_v2;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::primary_ctx_retain> cuDevicePrimaryCtxRetain;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::primary_ctx_release> cuDevicePrimaryCtxRelease_v2;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::ctx_get_current> cuCtxGetCurrent;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::ctx_set_current> cuCtxSetCurrent;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::ctx_push_current> cuCtxPushCurrent_v2;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::ctx_pop_current> cuCtxPopCurrent_v2;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::thread_exchange_capture_mode> cuThreadExchangeStreamCaptureMode;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::stream_create> cuStreamCreate;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::stream_destroy> cuStreamDestroy_v2;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::stream_synchronize> cuStreamSynchronize;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::stream_wait_event> cuStreamWaitEvent;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::event_create> cuEventCreate;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::event_destroy> cuEventDestroy_v2;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::event_record> cuEventRecord;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::event_query> cuEventQuery;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::event_synchronize> cuEventSynchronize;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::event_elapsed_time> cuEventElapsedTime;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::mem_alloc> cuMemAlloc_v2;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::mem_free> cuMemFree_v2;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::mem_host_register> cuMemHostRegister_v2;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::mem_host_unregister> cuMemHostUnregister;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::memcpy_htod_async> cuMemcpyHtoDAsync_v2;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::memcpy_2d_async> cuMemcpy2DAsync_v2;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::memcpy_batch_async> cuMemcpyBatchAsync;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::memset_d8_async> cuMemsetD8Async;
STANDIN_EXPORT standin::Signature<&streamload::CudaApi::memcpy_dtoh> cuMemcpyDtoH_v2;
