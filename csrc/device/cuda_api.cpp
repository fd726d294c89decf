#include "device/cuda_api.hpp"

#include <dlfcn.h>

namespace streamload {
namespace {

// cuGetProcAddress in its two signatures: the exported name without a suffix is still the one of CUDA 11.3.
using GetProcAddress = CuResult (*)(const char* symbol, void** function, int cuda_version, std::uint64_t flags);
using GetProcAddressV2 = CuResult (*)(const char* symbol, void** function, int cuda_version, std::uint64_t flags,
                                      int* symbol_status);
constexpr int kVersionNotSufficient = 2;  // CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

// Fills function pointers one by one; after the first symbol that is not there it only remembers that.
class Binder {
 public:
  explicit Binder(const SymbolLookup& lookup)
      : lookup_(lookup),
        by_version_v2_(reinterpret_cast<GetProcAddressV2>(lookup("cuGetProcAddress_v2"))),
        by_version_(reinterpret_cast<GetProcAddress>(lookup("cuGetProcAddress"))) {}

  // `name` as cuGetProcAddress knows it, `exported` as the dynamic loader does.
  template <class Function>
  void bind(Function& slot, const char* name, const char* exported) {
    slot = reinterpret_cast<Function>(find(name, exported));
    if (slot == nullptr && missing_.empty()) missing_ = std::string(exported) + reason_;
  }
  template <class Function>
  void bind(Function& slot, const char* name) {
    bind(slot, name, name);
  }
  // Leaves null what a driver of an earlier CUDA than `version` lacks.
  template <class Function>
  void bind_newer(Function& slot, const char* name, int version, int driver_version) {
    if (driver_version >= version) slot = reinterpret_cast<Function>(find(name, name, version));
  }

  [[nodiscard]] const std::string& missing() const noexcept { return missing_; }

 private:
  // The legacy-stream flavour, so that stream 0 means the legacy default stream, as it does in torch.
  AnyFunction find(const char* name, const char* exported, int version = kCudaVersion) {
    void* function = nullptr;
    int symbol_status = 0;
    if (by_version_v2_ != nullptr) {
      const CuResult result = by_version_v2_(name, &function, version, kCuGetProcAddressLegacyStream, &symbol_status);
      if (symbol_status == kVersionNotSufficient) reason_ = " (not offered to CUDA " + version_text(version) + ")";
      return result == CuResult::kSuccess ? reinterpret_cast<AnyFunction>(function) : nullptr;
    }
    if (by_version_ != nullptr) {
      const CuResult result = by_version_(name, &function, version, kCuGetProcAddressLegacyStream);
      return result == CuResult::kSuccess ? reinterpret_cast<AnyFunction>(function) : nullptr;
    }
    return lookup_(exported);
  }

  const SymbolLookup& lookup_;
  GetProcAddressV2 by_version_v2_;
  GetProcAddress by_version_;
  std::string reason_;
  std::string missing_;
};

void bind_all(Binder& binder, CudaApi& api) {
  binder.bind(api.init, "cuInit");
  binder.bind(api.get_error_name, "cuGetErrorName");
  binder.bind(api.get_error_string, "cuGetErrorString");
  binder.bind(api.device_get_count, "cuDeviceGetCount");
  binder.bind(api.device_get, "cuDeviceGet");
  binder.bind(api.device_get_name, "cuDeviceGetName");
  binder.bind(api.device_get_attribute, "cuDeviceGetAttribute");
  binder.bind(api.device_get_pci_bus_id, "cuDeviceGetPCIBusId");
  binder.bind(api.device_total_mem, "cuDeviceTotalMem", "cuDeviceTotalMem_v2");
  binder.bind(api.primary_ctx_retain, "cuDevicePrimaryCtxRetain");
  binder.bind(api.primary_ctx_release, "cuDevicePrimaryCtxRelease", "cuDevicePrimaryCtxRelease_v2");
  binder.bind(api.ctx_get_current, "cuCtxGetCurrent");
  binder.bind(api.ctx_set_current, "cuCtxSetCurrent");
  binder.bind(api.ctx_push_current, "cuCtxPushCurrent", "cuCtxPushCurrent_v2");
  binder.bind(api.ctx_pop_current, "cuCtxPopCurrent", "cuCtxPopCurrent_v2");
  binder.bind(api.thread_exchange_capture_mode, "cuThreadExchangeStreamCaptureMode");
  binder.bind(api.stream_create, "cuStreamCreate");
  binder.bind(api.stream_destroy, "cuStreamDestroy", "cuStreamDestroy_v2");
  binder.bind(api.stream_synchronize, "cuStreamSynchronize");
  binder.bind(api.stream_wait_event, "cuStreamWaitEvent");
  binder.bind(api.event_create, "cuEventCreate");
  binder.bind(api.event_destroy, "cuEventDestroy", "cuEventDestroy_v2");
  binder.bind(api.event_record, "cuEventRecord");
  binder.bind(api.event_query, "cuEventQuery");
  binder.bind(api.event_synchronize, "cuEventSynchronize");
  binder.bind(api.event_elapsed_time, "cuEventElapsedTime");
  binder.bind(api.mem_alloc, "cuMemAlloc", "cuMemAlloc_v2");
  binder.bind(api.mem_free, "cuMemFree", "cuMemFree_v2");
  binder.bind(api.mem_host_register, "cuMemHostRegister", "cuMemHostRegister_v2");
  binder.bind(api.mem_host_unregister, "cuMemHostUnregister");
  binder.bind(api.memcpy_htod_async, "cuMemcpyHtoDAsync", "cuMemcpyHtoDAsync_v2");
  binder.bind(api.memcpy_2d_async, "cuMemcpy2DAsync", "cuMemcpy2DAsync_v2");
  binder.bind(api.memset_d8_async, "cuMemsetD8Async");
  binder.bind(api.memcpy_dtoh, "cuMemcpyDtoH", "cuMemcpyDtoH_v2");
  binder.bind_newer(api.memcpy_batch_async, "cuMemcpyBatchAsync", kCudaVersionOfBatches, api.driver_version);
}

Status missing_symbol(const std::string& library, const std::string& symbol) {
  return Status::failure(Code::kNoDevice, library + " is not a usable CUDA driver: it has no " + symbol);
}

// What a user can do about the two results of cuInit that they meet.
std::string init_hint(CuResult result) {
  if (result == CuResult::kNoDevice) return "; is a GPU present, and does CUDA_VISIBLE_DEVICES admit it?";
  if (result == CuResult::kNotInitialized) return "; a forked child of a process that used CUDA cannot: use spawn";
  return {};
}

}  // namespace

Status CudaApi::resolve(const std::string& library, const SymbolLookup& lookup, CudaApi& out) {
  Binder binder(lookup);
  binder.bind(out.driver_get_version, "cuDriverGetVersion");
  if (!binder.missing().empty()) return missing_symbol(library, binder.missing());
  // Before the other symbols: too old is a clearer word than a missing symbol, which would be its consequence.
  const CuResult result = out.driver_get_version(&out.driver_version);
  if (result != CuResult::kSuccess) {
    return Status::failure(Code::kNoDevice, "cuDriverGetVersion: CUresult " + std::to_string(unsigned(result)),
                           std::int64_t(result));
  }
  if (out.driver_version < kCudaVersion) {
    return Status::failure(Code::kNoDevice, "the CUDA driver " + library + " offers CUDA " +
                                                version_text(out.driver_version) + "; " + version_text(kCudaVersion) +
                                                " or newer is needed");
  }
  bind_all(binder, out);
  return binder.missing().empty() ? Status{} : missing_symbol(library, binder.missing());
}

Status CudaApi::load(const std::string& library, std::shared_ptr<const CudaApi>& out) {
  if (library.empty()) return Status::failure(Code::kInvalid, "the name of the CUDA driver library is empty");
  // dlopen would take "" for this very program, hence the check. NODELETE says aloud that nobody unloads it.
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle == nullptr) {
    const char* reason = dlerror();  // NOLINT(concurrency-mt-unsafe): glibc and musl keep it per thread
    std::string text = reason == nullptr ? "no reason given" : reason;
    if (text.find(library) == std::string::npos) text = library + ": " + text;
    return Status::failure(
        Code::kNoDevice,
        "no CUDA driver (" + text + "); is NVIDIA's driver installed, and was the container given its GPUs?");
  }
  auto api = std::make_shared<CudaApi>();
  Status status = resolve(
      library, [handle](const char* symbol) { return reinterpret_cast<AnyFunction>(dlsym(handle, symbol)); }, *api);
  if (!status.ok()) return status;
  const CuResult result = api->init(0);
  if (result != CuResult::kSuccess) {
    return Status::failure(Code::kNoDevice, "cuInit: " + api->describe(result) + init_hint(result),
                           std::int64_t(result));
  }
  out = std::move(api);
  return {};
}

std::string CudaApi::describe(CuResult result) const {
  const char* name = nullptr;
  const char* text = nullptr;
  if (get_error_name(result, &name) != CuResult::kSuccess || name == nullptr) {
    return "CUresult " + std::to_string(unsigned(result));
  }
  if (get_error_string(result, &text) != CuResult::kSuccess || text == nullptr) return name;
  return std::string(name) + " (" + text + ")";
}

}  // namespace streamload
