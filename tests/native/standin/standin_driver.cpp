// The library, its devices and contexts; and cuGetProcAddress over all functions.
#include <cstdio>
#include <cstring>
#include <string>
#include <string_view>

#include "standin/standin_call.hpp"

using namespace standin;  // NOLINT(google-build-using-namespace): this file is the other half of it

namespace {

bool known_device(CuDevice device) { return device >= 0 && device < State::get().device_count; }

}  // namespace

// --- the library -------------------------------------------------------------------------------------------------

STANDIN_EXPORT CuResult cuInit(unsigned flags) {
  const Call call("cuInit", Kind::kAlways);
  if (call.refused()) return call.result;
  if (flags != 0) return CuResult::kInvalidValue;
  if (State::get().device_count == 0) return CuResult::kNoDevice;
  State::get().initialized = true;
  return kOk;
}

STANDIN_EXPORT CuResult cuDriverGetVersion(int* version) {
  const Call call("cuDriverGetVersion", Kind::kAlways);
  *version = State::get().driver_version;
  return call.result;
}

namespace {

struct ErrorText {
  CuResult result;
  const char* name;
  const char* text;
};
constexpr ErrorText kErrors[] = {
    {CuResult::kSuccess, "CUDA_SUCCESS", "no error"},
    {CuResult::kInvalidValue, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CuResult::kOutOfMemory, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CuResult::kNotInitialized, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CuResult::kDeinitialized, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {CuResult::kNoDevice, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {CuResult::kInvalidDevice, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CuResult::kInvalidContext, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CuResult::kInvalidHandle, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CuResult::kNotReady, "CUDA_ERROR_NOT_READY", "device not ready"},
    {CuResult::kIllegalAddress, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CuResult::kContextIsDestroyed, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {CuResult::kHostMemoryAlreadyRegistered, "CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED",
     "part or all of the requested memory range is already mapped"},
    {CuResult::kHostMemoryNotRegistered, "CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED",
     "pointer does not correspond to a registered memory region"},
    {CuResult::kNotSupported, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};

const ErrorText* find_error(CuResult result) {
  for (const ErrorText& error : kErrors) {
    if (error.result == result) return &error;
  }
  return nullptr;
}

}  // namespace

STANDIN_EXPORT CuResult cuGetErrorName(CuResult result, const char** text) {
  const ErrorText* error = find_error(result);
  *text = error == nullptr ? nullptr : error->name;
  return error == nullptr ? CuResult::kInvalidValue : kOk;
}

STANDIN_EXPORT CuResult cuGetErrorString(CuResult result, const char** text) {
  const ErrorText* error = find_error(result);
  *text = error == nullptr ? nullptr : error->text;
  return error == nullptr ? CuResult::kInvalidValue : kOk;
}

// --- devices and contexts ----------------------------------------------------------------------------------------

STANDIN_EXPORT CuResult cuDeviceGetCount(int* count) {
  const Call call("cuDeviceGetCount", Kind::kPlain);
  if (!call.refused()) *count = State::get().device_count;
  return call.result;
}

STANDIN_EXPORT CuResult cuDeviceGet(CuDevice* device, int ordinal) {
  const Call call("cuDeviceGet", Kind::kPlain);
  if (call.refused()) return call.result;
  if (!known_device(ordinal)) return CuResult::kInvalidDevice;
  *device = ordinal;
  return kOk;
}

STANDIN_EXPORT CuResult cuDeviceGetName(char* name, int nbytes, CuDevice device) {
  const Call call("cuDeviceGetName", Kind::kPlain);
  if (call.refused()) return call.result;
  if (!known_device(device)) return CuResult::kInvalidDevice;
  std::snprintf(name, static_cast<std::size_t>(nbytes), "Stand-in GPU %d", device);
  return kOk;
}

STANDIN_EXPORT CuResult cuDeviceGetPCIBusId(char* id, int nbytes, CuDevice device) {
  const Call call("cuDeviceGetPCIBusId", Kind::kPlain);
  if (call.refused()) return call.result;
  if (!known_device(device)) return CuResult::kInvalidDevice;
  // A domain that no machine has, in the large digits of the driver.
  std::snprintf(id, static_cast<std::size_t>(nbytes), "FFFF:%02X:00.0", 0xA0 + device);
  return kOk;
}

STANDIN_EXPORT CuResult cuDeviceGetAttribute(int* value, int attribute, CuDevice device) {
  const Call call("cuDeviceGetAttribute", Kind::kPlain);
  if (call.refused()) return call.result;
  if (!known_device(device)) return CuResult::kInvalidDevice;
  if (attribute == streamload::kCuAttributeComputeCapabilityMajor) {
    *value = 9;
  } else if (attribute == streamload::kCuAttributeComputeCapabilityMinor) {
    *value = device;
  } else {
    return CuResult::kInvalidValue;
  }
  return kOk;
}

STANDIN_EXPORT CuResult cuDeviceTotalMem_v2(std::size_t* nbytes, CuDevice device) {
  const Call call("cuDeviceTotalMem", Kind::kPlain);
  if (call.refused()) return call.result;
  if (!known_device(device)) return CuResult::kInvalidDevice;
  *nbytes = kDeviceBytes;
  return kOk;
}

STANDIN_EXPORT CuResult cuDevicePrimaryCtxRetain(CuContext* context, CuDevice device) {
  const Call call("cuDevicePrimaryCtxRetain", Kind::kPlain);
  if (call.refused()) return call.result;
  if (!known_device(device)) return CuResult::kInvalidDevice;
  ++State::get().contexts.at(static_cast<std::size_t>(device)).retained;
  *context = State::context_of(device);
  return kOk;
}

STANDIN_EXPORT CuResult cuDevicePrimaryCtxRelease_v2(CuDevice device) {
  Call call("cuDevicePrimaryCtxRelease", Kind::kPlain);
  if (call.result == CuResult::kDeinitialized) return call.result;
  State& state = State::get();
  if (!known_device(device)) return CuResult::kInvalidDevice;
  Context& context = state.contexts.at(static_cast<std::size_t>(device));
  if (context.retained == 0) return call.wrong("released more often than retained", CuResult::kInvalidContext);
  if (--context.retained > 0) return call.result;
  context.broken = kOk;
  state.close_default_streams(call.lock, device);
  std::string left;
  if (state.live(device, &left) > 0) return call.wrong("the last release leaves behind\n" + left, call.result);
  return call.result;
}

STANDIN_EXPORT CuResult cuCtxGetCurrent(CuContext* context) {
  const Call call("cuCtxGetCurrent", Kind::kPlain);
  if (!call.refused()) *context = State::stack().empty() ? CuContext{} : State::stack().back();
  return call.result;
}

STANDIN_EXPORT CuResult cuCtxSetCurrent(CuContext context) {
  const Call call("cuCtxSetCurrent", Kind::kPlain);
  if (call.refused()) return call.result;
  if (!State::stack().empty()) State::stack().pop_back();
  if (context != CuContext{}) State::stack().push_back(context);
  return kOk;
}

STANDIN_EXPORT CuResult cuCtxPushCurrent_v2(CuContext context) {
  const Call call("cuCtxPushCurrent", Kind::kPlain);
  if (call.refused()) return call.result;
  State::stack().push_back(context);
  return kOk;
}

STANDIN_EXPORT CuResult cuCtxPopCurrent_v2(CuContext* context) {
  const Call call("cuCtxPopCurrent", Kind::kPlain);
  if (call.result == CuResult::kDeinitialized) return call.result;
  if (State::stack().empty()) return call.wrong("nothing was pushed", CuResult::kInvalidContext);
  *context = State::stack().back();
  State::stack().pop_back();
  return call.result;
}

STANDIN_EXPORT CuResult cuThreadExchangeStreamCaptureMode(streamload::CuCaptureMode* mode) {
  using streamload::CuCaptureMode;
  const Call call("cuThreadExchangeStreamCaptureMode", Kind::kPlain);
  if (call.refused()) return call.result;
  thread_local auto of_thread = CuCaptureMode::kGlobal;
  if (*mode > CuCaptureMode::kRelaxed) return call.wrong("no such mode", CuResult::kInvalidValue);
  std::swap(*mode, of_thread);
  return kOk;
}

// --- finding functions -------------------------------------------------------------------------------------------

namespace {

using streamload::AnyFunction;

struct Function {
  std::string_view name;
  int version;  // of CUDA, that brought this signature (cudaTypedefs.h)
  AnyFunction function;
};
const Function kFunctions[] = {
    {"cuDriverGetVersion", 2020, reinterpret_cast<AnyFunction>(cuDriverGetVersion)},
    {"cuInit", 2000, reinterpret_cast<AnyFunction>(cuInit)},
    {"cuGetErrorName", 6000, reinterpret_cast<AnyFunction>(cuGetErrorName)},
    {"cuGetErrorString", 6000, reinterpret_cast<AnyFunction>(cuGetErrorString)},
    {"cuDeviceGetCount", 2000, reinterpret_cast<AnyFunction>(cuDeviceGetCount)},
    {"cuDeviceGet", 2000, reinterpret_cast<AnyFunction>(cuDeviceGet)},
    {"cuDeviceGetName", 2000, reinterpret_cast<AnyFunction>(cuDeviceGetName)},
    {"cuDeviceGetAttribute", 2000, reinterpret_cast<AnyFunction>(cuDeviceGetAttribute)},
    {"cuDeviceGetPCIBusId", 4010, reinterpret_cast<AnyFunction>(cuDeviceGetPCIBusId)},
    {"cuDeviceTotalMem", 3020, reinterpret_cast<AnyFunction>(cuDeviceTotalMem_v2)},
    {"cuDevicePrimaryCtxRetain", 7000, reinterpret_cast<AnyFunction>(cuDevicePrimaryCtxRetain)},
    {"cuDevicePrimaryCtxRelease", 11000, reinterpret_cast<AnyFunction>(cuDevicePrimaryCtxRelease_v2)},
    {"cuCtxGetCurrent", 4000, reinterpret_cast<AnyFunction>(cuCtxGetCurrent)},
    {"cuCtxSetCurrent", 4000, reinterpret_cast<AnyFunction>(cuCtxSetCurrent)},
    {"cuCtxPushCurrent", 4000, reinterpret_cast<AnyFunction>(cuCtxPushCurrent_v2)},
    {"cuCtxPopCurrent", 4000, reinterpret_cast<AnyFunction>(cuCtxPopCurrent_v2)},
    {"cuThreadExchangeStreamCaptureMode", 10010, reinterpret_cast<AnyFunction>(cuThreadExchangeStreamCaptureMode)},
    {"cuStreamCreate", 2000, reinterpret_cast<AnyFunction>(cuStreamCreate)},
    {"cuStreamDestroy", 4000, reinterpret_cast<AnyFunction>(cuStreamDestroy_v2)},
    {"cuStreamSynchronize", 2000, reinterpret_cast<AnyFunction>(cuStreamSynchronize)},
    {"cuStreamWaitEvent", 3020, reinterpret_cast<AnyFunction>(cuStreamWaitEvent)},
    {"cuEventCreate", 2000, reinterpret_cast<AnyFunction>(cuEventCreate)},
    {"cuEventDestroy", 4000, reinterpret_cast<AnyFunction>(cuEventDestroy_v2)},
    {"cuEventRecord", 2000, reinterpret_cast<AnyFunction>(cuEventRecord)},
    {"cuEventQuery", 2000, reinterpret_cast<AnyFunction>(cuEventQuery)},
    {"cuEventSynchronize", 2000, reinterpret_cast<AnyFunction>(cuEventSynchronize)},
    {"cuEventElapsedTime", 2000, reinterpret_cast<AnyFunction>(cuEventElapsedTime)},
    {"cuMemAlloc", 3020, reinterpret_cast<AnyFunction>(cuMemAlloc_v2)},
    {"cuMemFree", 3020, reinterpret_cast<AnyFunction>(cuMemFree_v2)},
    {"cuMemHostRegister", 6050, reinterpret_cast<AnyFunction>(cuMemHostRegister_v2)},
    {"cuMemHostUnregister", 4000, reinterpret_cast<AnyFunction>(cuMemHostUnregister)},
    {"cuMemcpyHtoDAsync", 3020, reinterpret_cast<AnyFunction>(cuMemcpyHtoDAsync_v2)},
    {"cuMemcpy2DAsync", 3020, reinterpret_cast<AnyFunction>(cuMemcpy2DAsync_v2)},
    {"cuMemcpyBatchAsync", 12080, reinterpret_cast<AnyFunction>(cuMemcpyBatchAsync)},
    {"cuMemsetD8Async", 3020, reinterpret_cast<AnyFunction>(cuMemsetD8Async)},
    {"cuMemcpyDtoH", 3020, reinterpret_cast<AnyFunction>(cuMemcpyDtoH_v2)},
};

// As CU_GET_PROC_ADDRESS_SUCCESS, _SYMBOL_NOT_FOUND, _VERSION_NOT_SUFFICIENT.
int find_function(std::string_view name, int cuda_version, void** function) {
  *function = nullptr;
  for (const Function& row : kFunctions) {
    if (row.name != name || State::get().hidden.contains(std::string(name))) continue;
    if (row.version > cuda_version) return 2;
    *function = reinterpret_cast<void*>(row.function);
    return 0;
  }
  return 1;
}

}  // namespace

STANDIN_EXPORT CuResult cuGetProcAddress_v2(const char* symbol, void** function, int cuda_version, std::uint64_t flags,
                                            int* symbol_status) {
  const Call call("cuGetProcAddress", Kind::kAlways);
  if (call.refused()) return call.result;
  if (cuda_version > State::get().driver_version || flags > 2) return CuResult::kInvalidValue;
  const int status = find_function(symbol, cuda_version, function);
  if (symbol_status != nullptr) *symbol_status = status;
  return kOk;
}

STANDIN_EXPORT CuResult cuGetProcAddress(const char* symbol, void** function, int cuda_version, std::uint64_t flags) {
  const Call call("cuGetProcAddress", Kind::kAlways);
  if (call.refused()) return call.result;
  if (cuda_version > State::get().driver_version || flags > 2) return CuResult::kInvalidValue;
  return find_function(symbol, cuda_version, function) == 0 ? kOk : CuResult::kNotFound;
}
