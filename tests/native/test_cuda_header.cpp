// Our declarations of the CUDA driver against cuda.h itself, where a toolkit is installed. Nothing else includes it.
#include <type_traits>

#include "check.hpp"
#include "device/cuda_api.hpp"

#if __has_include(<cudaTypedefs.h>)
#include <cuda.h>
#include <cudaTypedefs.h>
#endif

#ifdef CUDA_VERSION

using namespace streamload;

namespace {

// Two types are passed alike when both are pointers to like things or both are integers of one size.
template <class A, class B>
constexpr bool alike() {
  if constexpr (std::is_pointer_v<A> && std::is_pointer_v<B>) {
    using PointedA = std::remove_pointer_t<A>;
    using PointedB = std::remove_pointer_t<B>;
    static_assert(std::is_const_v<PointedA> == std::is_const_v<PointedB>);
    if constexpr (std::is_void_v<PointedA> || std::is_void_v<PointedB>) {
      return std::is_void_v<PointedA> == std::is_void_v<PointedB>;
    } else {
      return alike<std::remove_cv_t<PointedA>, std::remove_cv_t<PointedB>>();
    }
  } else if constexpr (std::is_floating_point_v<A> || std::is_floating_point_v<B>) {
    return std::is_same_v<A, B>;
  } else {
    return sizeof(A) == sizeof(B);  // an integer, an enum or (theirs) a pointer to an opaque struct
  }
}

template <class Ours, class Theirs>
struct Same;
template <class R1, class... A1, class R2, class... A2>
struct Same<R1 (*)(A1...), R2 (*)(A2...)> {
  static_assert(sizeof...(A1) == sizeof...(A2));
  static constexpr bool value = alike<R1, R2>() && (alike<A1, A2>() && ...);
};

#define SAME(member, function) static_assert(Same<decltype(CudaApi::member), decltype(&function)>::value)
SAME(driver_get_version, cuDriverGetVersion);
SAME(init, cuInit);
SAME(get_error_name, cuGetErrorName);
SAME(get_error_string, cuGetErrorString);
SAME(device_get_count, cuDeviceGetCount);
SAME(device_get, cuDeviceGet);
SAME(device_get_name, cuDeviceGetName);
SAME(device_get_attribute, cuDeviceGetAttribute);
SAME(device_get_pci_bus_id, cuDeviceGetPCIBusId);
SAME(device_total_mem, cuDeviceTotalMem);
SAME(primary_ctx_retain, cuDevicePrimaryCtxRetain);
SAME(primary_ctx_release, cuDevicePrimaryCtxRelease);
SAME(ctx_get_current, cuCtxGetCurrent);
SAME(ctx_set_current, cuCtxSetCurrent);
SAME(thread_exchange_capture_mode, cuThreadExchangeStreamCaptureMode);
static_assert(static_cast<unsigned>(CuCaptureMode::kRelaxed) == CU_STREAM_CAPTURE_MODE_RELAXED);
SAME(ctx_push_current, cuCtxPushCurrent);
SAME(ctx_pop_current, cuCtxPopCurrent);
SAME(stream_create, cuStreamCreate);
SAME(stream_destroy, cuStreamDestroy);
SAME(stream_synchronize, cuStreamSynchronize);
SAME(stream_wait_event, cuStreamWaitEvent);
SAME(event_create, cuEventCreate);
SAME(event_destroy, cuEventDestroy);
SAME(event_record, cuEventRecord);
SAME(event_query, cuEventQuery);
SAME(event_synchronize, cuEventSynchronize);
SAME(event_elapsed_time, cuEventElapsedTime);
SAME(mem_alloc, cuMemAlloc);
SAME(mem_free, cuMemFree);
SAME(mem_host_register, cuMemHostRegister);
SAME(mem_host_unregister, cuMemHostUnregister);
SAME(memcpy_htod_async, cuMemcpyHtoDAsync);
SAME(memset_d8_async, cuMemsetD8Async);
SAME(memcpy_dtoh, cuMemcpyDtoH);
SAME(memcpy_2d_async, cuMemcpy2DAsync);
#undef SAME

static_assert(sizeof(CuMemcpy2D) == sizeof(CUDA_MEMCPY2D_v2));
#define AT(member, field) static_assert(offsetof(CuMemcpy2D, member) == offsetof(CUDA_MEMCPY2D_v2, field))
AT(source_x, srcXInBytes);
AT(source_y, srcY);
AT(source_type, srcMemoryType);
AT(source_host, srcHost);
AT(source_device, srcDevice);
AT(source_array, srcArray);
AT(source_pitch, srcPitch);
AT(target_x, dstXInBytes);
AT(target_y, dstY);
AT(target_type, dstMemoryType);
AT(target_host, dstHost);
AT(target_device, dstDevice);
AT(target_array, dstArray);
AT(target_pitch, dstPitch);
AT(row_bytes, WidthInBytes);
AT(rows, Height);
#undef AT

#if CUDA_VERSION >= 12080
static_assert(Same<decltype(CudaApi::memcpy_batch_async), PFN_cuMemcpyBatchAsync_v12080>::value);
static_assert(sizeof(CuMemcpyAttributes) == sizeof(CUmemcpyAttributes_v1));
#define AT(member, field) static_assert(offsetof(CuMemcpyAttributes, member) == offsetof(CUmemcpyAttributes_v1, field))
AT(source_order, srcAccessOrder);
AT(source_location, srcLocHint);
AT(target_location, dstLocHint);
AT(flags, flags);
#undef AT
#endif

}  // namespace

TEST(results_have_cuda_hs_values) {
  const auto same = [](CuResult ours, CUresult theirs) { CHECK_EQ(unsigned(ours), unsigned(theirs)); };
  same(CuResult::kSuccess, CUDA_SUCCESS);
  same(CuResult::kInvalidValue, CUDA_ERROR_INVALID_VALUE);
  same(CuResult::kOutOfMemory, CUDA_ERROR_OUT_OF_MEMORY);
  same(CuResult::kNotInitialized, CUDA_ERROR_NOT_INITIALIZED);
  same(CuResult::kDeinitialized, CUDA_ERROR_DEINITIALIZED);
  same(CuResult::kNoDevice, CUDA_ERROR_NO_DEVICE);
  same(CuResult::kInvalidDevice, CUDA_ERROR_INVALID_DEVICE);
  same(CuResult::kInvalidContext, CUDA_ERROR_INVALID_CONTEXT);
  same(CuResult::kInvalidHandle, CUDA_ERROR_INVALID_HANDLE);
  same(CuResult::kNotFound, CUDA_ERROR_NOT_FOUND);
  same(CuResult::kNotReady, CUDA_ERROR_NOT_READY);
  same(CuResult::kIllegalAddress, CUDA_ERROR_ILLEGAL_ADDRESS);
  same(CuResult::kContextIsDestroyed, CUDA_ERROR_CONTEXT_IS_DESTROYED);
  same(CuResult::kHostMemoryAlreadyRegistered, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
  same(CuResult::kHostMemoryNotRegistered, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
  same(CuResult::kNotSupported, CUDA_ERROR_NOT_SUPPORTED);
}

TEST(flags_have_cuda_hs_values) {
  CHECK_EQ(kCuStreamNonBlocking, unsigned(CU_STREAM_NON_BLOCKING));
  CHECK_EQ(kCuEventBlockingSync, unsigned(CU_EVENT_BLOCKING_SYNC));
  CHECK_EQ(kCuEventDisableTiming, unsigned(CU_EVENT_DISABLE_TIMING));
  CHECK_EQ(kCuMemHostRegisterPortable, unsigned(CU_MEMHOSTREGISTER_PORTABLE));
  CHECK_EQ(kCuAttributeComputeCapabilityMajor, int(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR));
  CHECK_EQ(kCuAttributeComputeCapabilityMinor, int(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR));
  CHECK_EQ(kCuGetProcAddressLegacyStream, std::uint64_t(CU_GET_PROC_ADDRESS_LEGACY_STREAM));
}

TEST(constants_of_copies_have_cuda_hs_values) {
  CHECK_EQ(unsigned(CuMemoryType::kHost), unsigned(CU_MEMORYTYPE_HOST));
  CHECK_EQ(unsigned(CuMemoryType::kDevice), unsigned(CU_MEMORYTYPE_DEVICE));
#if CUDA_VERSION >= 12080
  CHECK_EQ(unsigned(CuSourceOrder::kStream), unsigned(CU_MEMCPY_SRC_ACCESS_ORDER_STREAM));
  CHECK_EQ(unsigned(CuSourceOrder::kDuringCall), unsigned(CU_MEMCPY_SRC_ACCESS_ORDER_DURING_API_CALL));
  CHECK_EQ(unsigned(CuSourceOrder::kAny), unsigned(CU_MEMCPY_SRC_ACCESS_ORDER_ANY));
  CHECK_EQ(kCuMemcpyPreferOverlapWithCompute, unsigned(CU_MEMCPY_FLAG_PREFER_OVERLAP_WITH_COMPUTE));
  CHECK_EQ(kCudaVersionOfBatches, 12080);  // the version in the name of the type compared above
#endif
}

#else

TEST(no_cuda_toolkit_here_to_compare_with) { std::printf("skipped: no cuda.h on this machine\n"); }

#endif
