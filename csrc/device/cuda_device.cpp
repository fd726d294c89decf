#include "device/cuda_device.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>

#include "core/touched_memory.hpp"

namespace streamload {
namespace {

template <class Action>
class OnExit {
 public:
  explicit OnExit(Action action) noexcept : action_(std::move(action)) {}
  OnExit(const OnExit&) = delete;
  OnExit& operator=(const OnExit&) = delete;
  ~OnExit() { action_(); }

 private:
  Action action_;
};

}  // namespace

int pci_numa_node(const std::string& pci_bus_id, const std::string& devices_dir) {
  std::ifstream file(devices_dir + "/" + pci_bus_id + "/numa_node");
  int node = -1;
  return file >> node ? node : -1;
}

// Makes the context current on this thread for a scope, if it is not already.
struct CudaDevice::CurrentContext {
  CurrentContext(const CudaApi& cuda, CuContext wanted) noexcept : api(cuda) {
    CuContext current{};
    // Only a shortcut: where the question fails, the push decides.
    if (api.ctx_get_current(&current) == CuResult::kSuccess && current == wanted) return;
    result = api.ctx_push_current(wanted);
    pushed = result == CuResult::kSuccess;
  }
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;
  ~CurrentContext() {
    CuContext popped{};
    if (pushed) static_cast<void>(api.ctx_pop_current(&popped));  // can only fail with the whole context
  }

  const CudaApi& api;
  CuResult result = CuResult::kSuccess;
  bool pushed = false;
};

template <class Call>
Status CudaDevice::run(const char* name, const Call& call, Extent extent) const {
  const CurrentContext current(*api_, context_);
  if (current.result != CuResult::kSuccess) return failure("cuCtxPushCurrent", current.result, extent);
  const CuResult result = call();
  return result == CuResult::kSuccess ? Status{} : failure(name, result, extent);
}

template <class Call>
void CudaDevice::release(const Call& call) const noexcept {
  if (in_forked_child()) return;  // the driver's state belongs to the parent
  const CurrentContext current(*api_, context_);
  static_cast<void>(call());
}

Status CudaDevice::failure(const char* name, CuResult result, Extent extent) const {
  std::ostringstream text;
  text << name << ": " << api_->describe(result);
  if (extent.nbytes != 0) text << ", " << extent.nbytes << " bytes";
  if (extent.address != 0) text << extent.word << "0x" << std::hex << extent.address << std::dec;
  text << " on cuda:" << ordinal_;
  Code code = Code::kDeviceFailed;
  if (result == CuResult::kOutOfMemory) {
    code = std::strcmp(name, "cuMemHostRegister") == 0 ? Code::kOutOfPinnedMemory : Code::kOutOfDeviceMemory;
  }
  Status status = Status::failure(code, text.str(), static_cast<std::int64_t>(result));
  status.nbytes = extent.nbytes;
  return status;
}

bool CudaDevice::in_forked_child() const noexcept { return getpid() != process_; }

// --- opening and closing ---------------------------------------------------------------------------------------

Status CudaDevice::make(int ordinal, const std::string& library, std::shared_ptr<CudaDevice>& out) {
  std::shared_ptr<const CudaApi> api;
  Status status = CudaApi::load(library, api);
  if (!status.ok()) return status;
  const std::string name = "cuda:" + std::to_string(ordinal);
  const auto failed = [&](const char* call, CuResult result) {
    const Code code = result == CuResult::kOutOfMemory ? Code::kOutOfDeviceMemory : Code::kDeviceFailed;
    return Status::failure(code, std::string(call) + ": " + api->describe(result) + " on " + name,
                           static_cast<std::int64_t>(result));
  };

  int count = 0;
  CuResult result = api->device_get_count(&count);
  if (result != CuResult::kSuccess) return failed("cuDeviceGetCount", result);
  if (ordinal < 0 || ordinal >= count) {
    return Status::failure(Code::kNoDevice, name + " does not exist; this machine has " + std::to_string(count) +
                                                (count == 1 ? " CUDA device" : " CUDA devices"));
  }
  CuDevice device = 0;
  result = api->device_get(&device, ordinal);
  if (result != CuResult::kSuccess) return failed("cuDeviceGet", result);
  CuContext context{};
  result = api->primary_ctx_retain(&context, device);
  if (result != CuResult::kSuccess) return failed("cuDevicePrimaryCtxRetain", result);
  out = std::make_shared<CudaDevice>(Key{}, std::move(api), ordinal, device, context);
  return {};
}

CudaDevice::CudaDevice(Key, std::shared_ptr<const CudaApi> api, int ordinal, CuDevice device,
                       CuContext context) noexcept
    : api_(std::move(api)), ordinal_(ordinal), device_(device), context_(context), process_(getpid()), copier_(api_) {}

CudaDevice::~CudaDevice() {
  if (!in_forked_child()) static_cast<void>(api_->primary_ctx_release(device_));  // as `release`, without a context
}

Status CudaDevice::enter_thread() noexcept {
  if (in_forked_child()) {
    return Status::failure(Code::kForked, name() + " was opened by process " + std::to_string(process_) +
                                              "; CUDA does not survive a fork: start processes with spawn");
  }
  if (const CuResult result = api_->ctx_set_current(context_); result != CuResult::kSuccess) {
    return failure("cuCtxSetCurrent", result, {});
  }
  // A graph captured elsewhere in the process must not be spoilt by this thread's events and registrations, which
  // no captured stream sees (Driver API, cuThreadExchangeStreamCaptureMode).
  auto mode = CuCaptureMode::kRelaxed;
  const CuResult result = api_->thread_exchange_capture_mode(&mode);
  return result == CuResult::kSuccess ? Status{} : failure("cuThreadExchangeStreamCaptureMode", result, {});
}

Status CudaDevice::properties(CudaProperties& out) const {
  std::array<char, 256> device_name{};
  std::size_t total = 0;
  CudaProperties found;
  struct Query {
    const char* call;
    CuResult result;
  };
  const auto attribute = [&](int which, int& value) { return api_->device_get_attribute(&value, which, device_); };
  for (const Query& query : {
           Query{"cuDeviceGetName", api_->device_get_name(device_name.data(), int{device_name.size()}, device_)},
           Query{"cuDeviceGetPCIBusId", find_bus_id(found.pci_bus_id)},
           Query{"cuDeviceTotalMem", api_->device_total_mem(&total, device_)},
           Query{"cuDeviceGetAttribute", attribute(kCuAttributeComputeCapabilityMajor, found.compute_major)},
           Query{"cuDeviceGetAttribute", attribute(kCuAttributeComputeCapabilityMinor, found.compute_minor)},
       }) {
    if (query.result != CuResult::kSuccess) return failure(query.call, query.result, {});
  }
  found.name = device_name.data();
  found.total_bytes = total;
  found.driver_version = api_->driver_version;
  found.numa_node = pci_numa_node(found.pci_bus_id);
  out = std::move(found);
  return {};
}

CuResult CudaDevice::find_bus_id(std::string& out) const {
  std::array<char, 32> bus_id{};
  const CuResult result = api_->device_get_pci_bus_id(bus_id.data(), int{bus_id.size()}, device_);
  out = bus_id.data();
  // sysfs writes the hexadecimal digits small, the driver large.
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return result;
}

int CudaDevice::numa_node() const noexcept {
  std::string bus_id;
  return in_forked_child() || find_bus_id(bus_id) != CuResult::kSuccess ? -1 : pci_numa_node(bus_id);
}

// --- streams and events ------------------------------------------------------------------------------------------

Status CudaDevice::create_stream(StreamView& out) noexcept {
  CuStream stream{};
  Status status = run("cuStreamCreate", [&] { return api_->stream_create(&stream, kCuStreamNonBlocking); });
  if (status.ok()) out = StreamView{static_cast<std::uintptr_t>(stream)};
  return status;
}

void CudaDevice::destroy_stream(StreamView stream) noexcept {
  if (stream.handle == 0) return;
  release([&] {
    static_cast<void>(api_->stream_synchronize(CuStream{stream.handle}));
    return api_->stream_destroy(CuStream{stream.handle});
  });
}

void CudaDevice::drain(StreamView stream) noexcept {
  release([&] { return api_->stream_synchronize(CuStream{stream.handle}); });
}

Status CudaDevice::create_event_with(unsigned flags, EventView& out) {
  CuEvent event{};
  // Blocking: a waiting thread sleeps, its core stays free for readers.
  Status status = run("cuEventCreate", [&] { return api_->event_create(&event, flags | kCuEventBlockingSync); });
  if (status.ok()) out = EventView{static_cast<std::uintptr_t>(event)};
  return status;
}

// Without timing a record is cheaper.
Status CudaDevice::create_event(EventView& out) noexcept { return create_event_with(kCuEventDisableTiming, out); }

void CudaDevice::destroy_event(EventView event) noexcept {
  if (event.handle == 0) return;
  release([&] { return api_->event_destroy(CuEvent{event.handle}); });
}

Status CudaDevice::record(EventView event, StreamView stream) noexcept {
  return run("cuEventRecord", [&] { return api_->event_record(CuEvent{event.handle}, CuStream{stream.handle}); });
}

Status CudaDevice::wait(StreamView stream, EventView event) noexcept {
  return run("cuStreamWaitEvent",
             [&] { return api_->stream_wait_event(CuStream{stream.handle}, CuEvent{event.handle}, 0); });
}

Status CudaDevice::query(EventView event, bool& done) noexcept {
  bool ready = false;
  Status status = run("cuEventQuery", [&] {
    const CuResult result = api_->event_query(CuEvent{event.handle});
    ready = result == CuResult::kSuccess;
    return result == CuResult::kNotReady ? CuResult::kSuccess : result;
  });
  if (status.ok()) done = ready;
  return status;
}

Status CudaDevice::synchronize(EventView event) noexcept {
  return run("cuEventSynchronize", [&] { return api_->event_synchronize(CuEvent{event.handle}); });
}

// --- bytes -------------------------------------------------------------------------------------------------------

Status CudaDevice::copy_blocks(std::span<const CopyBlock> blocks, StreamView stream) noexcept {
  const CurrentContext current(*api_, context_);
  if (current.result != CuResult::kSuccess) return failure("cuCtxPushCurrent", current.result, {});
  const CudaCopier::Outcome outcome = copier_.copy(blocks, CuStream{stream.handle});
  if (outcome.result == CuResult::kSuccess) return {};
  return failure(outcome.call, outcome.result, {outcome.nbytes, " to ", outcome.target});
}

Status CudaDevice::poison(DeviceSpan memory, StreamView stream) noexcept {
  constexpr unsigned char kNan = 0xFF;
  if (memory.empty()) return {};
  return run(
      "cuMemsetD8Async",
      [&] { return api_->memset_d8_async(CuDevicePtr{memory.address}, kNan, memory.nbytes, CuStream{stream.handle}); },
      {memory.nbytes, " at ", memory.address});
}

Status CudaDevice::pin(HostSpan memory) noexcept {
  if (memory.empty()) return {};
  return run("cuMemHostRegister",
             // Portable: pinned for every context, so that one ring can feed several devices.
             [&] { return api_->mem_host_register(memory.data(), memory.size(), kCuMemHostRegisterPortable); },
             {memory.size(), " at ", reinterpret_cast<std::uintptr_t>(memory.data())});
}

void CudaDevice::unpin(HostSpan memory) noexcept {
  if (memory.empty()) return;
  release([&] { return api_->mem_host_unregister(memory.data()); });
}

// Every device of one driver has the same entry points.
std::uintptr_t CudaDevice::pin_domain() const noexcept {
  return reinterpret_cast<std::uintptr_t>(api_->mem_host_register);
}

Status CudaDevice::allocate(std::size_t nbytes, DeviceSpan& out) noexcept {
  CuDevicePtr address{};
  if (nbytes != 0) {
    Status status = run("cuMemAlloc", [&] { return api_->mem_alloc(&address, nbytes); }, {nbytes, "", 0});
    if (!status.ok()) return status;
  }
  out = DeviceSpan{static_cast<std::uintptr_t>(address), nbytes};
  return {};
}

void CudaDevice::deallocate(DeviceSpan memory) noexcept {
  if (memory.address == 0) return;
  release([&] { return api_->mem_free(CuDevicePtr{memory.address}); });
}

Status CudaDevice::read_back(HostSpan target, DeviceSpan source) noexcept {
  if (target.size() != source.nbytes) {
    return Status::failure(Code::kInvalid, "read back of " + std::to_string(source.nbytes) + " bytes into " +
                                               std::to_string(target.size()) + " on " + name());
  }
  if (target.empty()) return {};
  return run("cuMemcpyDtoH",
             [&] { return api_->memcpy_dtoh(target.data(), CuDevicePtr{source.address}, target.size()); },
             {target.size(), " from ", source.address});
}

// --- the link ----------------------------------------------------------------------------------------------------

Status CudaDevice::measure_link(std::size_t nbytes, int repeats, std::vector<double>& seconds) {
  if (nbytes == 0 || repeats <= 0) {
    return Status::failure(Code::kInvalid, "measuring the link takes at least one byte and one repeat");
  }
  const TouchedMemory memory = touched_memory(nbytes, std::byte{1});
  if (memory == nullptr) {
    return Status::failure(Code::kOutOfPinnedMemory, "no " + std::to_string(nbytes) + " bytes of host memory", ENOMEM);
  }
  const HostSpan source(memory.get(), nbytes);
  Status status = pin(source);
  if (!status.ok()) return status;
  const OnExit unpin_source([&] { unpin(source); });
  DeviceSpan target;
  status = allocate(nbytes, target);
  if (!status.ok()) return status;
  const OnExit deallocate_target([&] { deallocate(target); });
  // Both before the stream, so that they outlive its work on every way out.
  EventView start;
  status = create_event_with(0, start);
  if (!status.ok()) return status;
  const OnExit destroy_start([&] { destroy_event(start); });
  EventView end;
  status = create_event_with(0, end);
  if (!status.ok()) return status;
  const OnExit destroy_end([&] { destroy_event(end); });
  StreamView stream;
  status = create_stream(stream);
  if (!status.ok()) return status;
  const OnExit destroy([&] { destroy_stream(stream); });

  double first = 0;
  status = time_copy(target, source, stream, start, end, first);
  seconds.clear();
  for (int repeat = 0; status.ok() && repeat < repeats; ++repeat) {
    status = time_copy(target, source, stream, start, end, seconds.emplace_back());
  }
  return status;
}

Status CudaDevice::time_copy(DeviceSpan target, ConstHostSpan source, StreamView stream, EventView start, EventView end,
                             double& seconds) {
  Status status = record(start, stream);
  if (status.ok()) status = copy(target, source, stream);
  if (status.ok()) status = record(end, stream);
  if (status.ok()) status = synchronize(end);
  if (!status.ok()) return status;
  float milliseconds = 0;
  status = run("cuEventElapsedTime",
               [&] { return api_->event_elapsed_time(&milliseconds, CuEvent{start.handle}, CuEvent{end.handle}); });
  seconds = double{milliseconds} / 1e3;
  return status;
}

}  // namespace streamload
