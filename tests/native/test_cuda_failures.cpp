// CudaDevice when something is missing or fails: every function of the driver, at every one of its calls.
#include <set>

#include "cuda_fixture.hpp"

using namespace cuda_tests;

namespace {

constexpr const char* kFunctions[] = {
    "cuDriverGetVersion",
    "cuInit",
    "cuGetErrorName",
    "cuGetErrorString",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDeviceGetPCIBusId",
    "cuDeviceTotalMem",
    "cuDevicePrimaryCtxRetain",
    "cuDevicePrimaryCtxRelease",
    "cuCtxGetCurrent",
    "cuCtxSetCurrent",
    "cuCtxPushCurrent",
    "cuCtxPopCurrent",
    "cuThreadExchangeStreamCaptureMode",
    "cuStreamCreate",
    "cuStreamDestroy",
    "cuStreamSynchronize",
    "cuStreamWaitEvent",
    "cuEventCreate",
    "cuEventDestroy",
    "cuEventRecord",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuEventElapsedTime",
    "cuMemAlloc",
    "cuMemFree",
    "cuMemHostRegister",
    "cuMemHostUnregister",
    "cuMemcpyHtoDAsync",
    "cuMemcpy2DAsync",
    "cuMemcpyBatchAsync",
    "cuMemsetD8Async",
    "cuMemcpyDtoH",
};

Status open_status(int ordinal, const std::string& library = STREAMLOAD_STANDIN_PATH) {
  std::shared_ptr<CudaDevice> device;
  Status status = CudaDevice::make(ordinal, library, device);
  CHECK_EQ(status.ok(), device != nullptr);
  return status;
}

// Stops at the first failure; gives back all it took, as the engine does.
Status make_use_of(const std::shared_ptr<CudaDevice>& device) {
  CudaProperties properties;
  Status status = device->properties(properties);
  if (!status.ok()) return status;
  std::vector<std::byte> memory(512, std::byte{1});
  Stream stream;
  Stream consumer;
  Event event;
  DeviceSpan block;
  bool pinned = false;
  bool done = false;
  const auto next = [&](auto&& step) {
    if (status.ok()) status = step();
  };
  next([&] { return Stream::make(device, stream); });
  next([&] { return Stream::make(device, consumer); });
  next([&] { return Event::make(device, event); });
  next([&] {
    Status pin = device->pin(memory);
    pinned = pin.ok();
    return pin;
  });
  next([&] { return device->allocate(512, block); });
  next([&] { return device->copy(block, memory, stream.view()); });
  const std::array blocks{CopyBlock{block.address, 0, memory.data(), 0, 10, 1},
                          CopyBlock{block.address + 10, 0, memory.data(), 0, 10, 1},
                          CopyBlock{block.address + 20, 9, memory.data(), 8, 7, 5}};
  for (int twice = 0; twice < 2; ++twice) next([&] { return device->copy_blocks(blocks, stream.view()); });
  next([&] { return device->poison(block, stream.view()); });
  next([&] { return device->record(event.view(), stream.view()); });
  next([&] { return device->wait(consumer.view(), event.view()); });
  next([&] { return device->query(event.view(), done); });
  next([&] { return device->synchronize(event.view()); });
  next([&] { return device->read_back(memory, block); });
  std::vector<double> seconds;
  next([&] { return device->measure_link(4096, 2, seconds); });
  stream.reset();  // before what its copies use
  consumer.reset();
  if (pinned) device->unpin(memory);
  device->deallocate(block);
  return status;
}

// Opens the device and does everything it can.
Status do_everything(bool enter) {
  std::shared_ptr<CudaDevice> device;
  Status status = CudaDevice::make(0, STREAMLOAD_STANDIN_PATH, device);
  if (status.ok() && enter) status = device->enter_thread();
  return status.ok() ? make_use_of(device) : status;
}

// What a failure of `function` must do to do_everything: nothing where it gives back, asks or only words a message.
bool harmless(const std::string& function) {
  static const std::set<std::string> names{"cuGetErrorName",      "cuGetErrorString", "cuDevicePrimaryCtxRelease",
                                           "cuCtxGetCurrent",     "cuCtxPopCurrent",  "cuStreamDestroy",
                                           "cuStreamSynchronize", "cuEventDestroy",   "cuMemFree",
                                           "cuMemHostUnregister"};
  return names.contains(function);
}

Code expected_code(const std::string& function, int result) {
  if (function == "cuInit" || function == "cuDriverGetVersion") return Code::kNoDevice;
  if (result != 2) return Code::kDeviceFailed;
  return function == "cuMemHostRegister" ? Code::kOutOfPinnedMemory : Code::kOutOfDeviceMemory;
}

// Call `k` of `function` fails, for every k that do_everything makes.
void fail_each_call(const Driver& driver, const std::string& function, int result, bool enter) {
  driver->reset();
  CHECK_EQ(do_everything(enter).text, "");
  const std::uint64_t calls = driver->calls(function.c_str());
  for (std::uint64_t k = 0; k < calls; ++k) {
    driver->reset();
    driver->fail(function.c_str(), k, result);
    const Status status = do_everything(enter);
    CHECK_EQ(driver->violation_text(), "0: ");
    CHECK_EQ(driver->live_text(), "0: ");
    if (harmless(function)) {
      CHECK_EQ(status.text, "");
      continue;
    }
    CHECK_EQ(status.code, expected_code(function, result));
    CHECK_EQ(status.system_code, result);
    CHECK_EQ(status.text.substr(0, status.text.find(':')), function);
  }
}

}  // namespace

TEST(every_call_that_fails_is_told_and_nothing_stays) {
  const Driver driver;
  for (const std::string function : kFunctions) {
    for (const int result : {2, 700}) fail_each_call(driver, function, result, true);
  }
}

TEST(every_call_that_fails_on_a_thread_without_context_is_told) {
  const Driver driver;
  for (const std::string function : kFunctions) {
    if (function != "cuCtxPushCurrent") fail_each_call(driver, function, 2, false);
  }
}

TEST(context_that_cannot_become_current_fails_the_call) {
  const Driver driver;
  const auto device = open_device();
  driver->fail("cuCtxPushCurrent", 0, 201);
  StreamView stream;
  const Status status = device->create_stream(stream);
  CHECK_EQ(status.text, "cuCtxPushCurrent: CUDA_ERROR_INVALID_CONTEXT (invalid device context) on cuda:0");
  CHECK_EQ(stream.handle, 0);
}

TEST(failed_copy_says_how_much_and_where_to) {
  const Driver driver;
  const auto device = open_device();
  const Stream stream = make_stream(device);
  const Block target(device, 128);
  const Pinned source(device, 128, std::byte{1});
  driver->fail("cuMemcpyHtoDAsync", 0, 700);
  const Status status = device->copy(target.span(), source.bytes, stream.view());
  std::ostringstream expected;
  expected
      << "cuMemcpyHtoDAsync: CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered), 128 bytes to 0x"
      << std::hex << target.span().address << " on cuda:0";
  CHECK_EQ(status.text, expected.str());
  CHECK_EQ(status.code, Code::kDeviceFailed);
  CHECK_EQ(status.nbytes, 128);
}

TEST(result_without_a_name_is_told_by_its_number) {
  const Driver driver;
  const auto device = open_device();
  driver->fail("cuEventCreate", 0, 987);
  EventView event;
  CHECK_EQ(device->create_event(event).text, "cuEventCreate: CUresult 987 on cuda:0");
}

TEST(failed_pin_leaves_nothing_behind) {
  const Driver driver;
  const auto device = open_device();
  std::vector<std::byte> memory(4096);
  driver->fail("cuMemHostRegister", 0, 2);
  CHECK_EQ(device->pin(memory).code, Code::kOutOfPinnedMemory);
  const Event event = make_event(device);  // the next calls know nothing of it
  CHECK(device->pin(memory).ok());
  const Status again = device->pin(memory);
  CHECK_EQ(again.code, Code::kDeviceFailed);
  CHECK_EQ(again.system_code, 712);
  device->unpin(memory);
}

TEST(device_memory_that_is_not_there_is_its_own_code) {
  const Driver driver;
  const auto device = open_device();
  DeviceSpan block;
  const Status status = device->allocate(std::size_t{9} << 30, block);
  CHECK_EQ(status.code, Code::kOutOfDeviceMemory);
  CHECK_EQ(status.text, "cuMemAlloc: CUDA_ERROR_OUT_OF_MEMORY (out of memory), 9663676416 bytes on cuda:0");
  CHECK(block.empty());
}

TEST(copy_that_fails_on_the_device_is_told_by_the_wait) {
  const Driver driver;
  const auto device = open_device();
  const Block target(device, 64);
  const Pinned source(device, 64, std::byte{1});
  {
    const Stream stream = make_stream(device);
    const Event event = make_event(device);
    driver->fail("copy", 0, 700);
    driver->hold_copies();
    CHECK(device->copy(target.span(), source.bytes, stream.view()).ok());
    CHECK(device->record(event.view(), stream.view()).ok());
    driver->release_all_copies();
    const Status status = device->synchronize(event.view());
    CHECK_EQ(status.code, Code::kDeviceFailed);
    CHECK_EQ(status.system_code, 700);
    bool done = true;
    CHECK_EQ(device->query(event.view(), done).system_code, 700);
    CHECK(done);  // left as it was
  }
  CHECK(target.peek() != source.bytes);
}

TEST(library_that_is_missing_is_named_once) {
  const Status status = open_status(0, "libstreamload-no-such-driver.so.1");
  CHECK_EQ(status.code, Code::kNoDevice);
  CHECK_EQ(status.text,
           "no CUDA driver (libstreamload-no-such-driver.so.1: cannot open shared object file: No such file or "
           "directory); is NVIDIA's driver installed, and was the container given its GPUs?");
}

TEST(library_that_is_not_a_driver_is_refused) {
  const Status status = open_status(0, "libm.so.6");
  CHECK_EQ(status.code, Code::kNoDevice);
  CHECK_EQ(status.text, "libm.so.6 is not a usable CUDA driver: it has no cuDriverGetVersion");
  CHECK_EQ(open_status(0, "").code, Code::kInvalid);
}

TEST(each_symbol_that_is_missing_is_named) {
  const Driver driver;
  for (const std::string function : kFunctions) {
    if (function == "cuMemcpyBatchAsync") continue;  // a driver may lack it
    driver->reset();
    driver->hide(function.c_str());
    const Status status = open_status(0);
    CHECK_EQ(status.code, Code::kNoDevice);
    CHECK(status.text.find("it has no " + function) != std::string::npos);
  }
}

TEST(driver_that_is_too_old_is_told_its_version) {
  const Driver driver;
  CudaApi api;
  driver->set_driver_version(10020);
  // A driver of CUDA 10 has no cuGetProcAddress; one that has would not look for a newer version than its own.
  const Status status = CudaApi::resolve(
      "libcuda.so.1",
      [&](const char* symbol) -> AnyFunction {
        const std::string name = symbol;
        if (name.starts_with("cuGetProcAddress")) return nullptr;
        return reinterpret_cast<AnyFunction>(dlsym(driver->library, symbol));
      },
      api);
  CHECK_EQ(status.code, Code::kNoDevice);
  CHECK_EQ(status.text, "the CUDA driver libcuda.so.1 offers CUDA 10.2; 11.0 or newer is needed");
}

TEST(drivers_without_the_newer_lookup_are_served) {
  const Driver driver;
  driver->set_driver_version(11040);
  for (const std::string hidden : {"cuGetProcAddress_v2", "cuGetProcAddress"}) {
    CudaApi api;
    const std::uint64_t before = driver->calls("cuGetProcAddress");
    const Status status = CudaApi::resolve(
        "libcuda.so.1",
        [&](const char* symbol) -> AnyFunction {
          // The first round hides the one of CUDA 12, the second both.
          if (std::string(symbol).starts_with(hidden)) return nullptr;
          return reinterpret_cast<AnyFunction>(dlsym(driver->library, symbol));
        },
        api);
    CHECK_EQ(status.text, "");
    CHECK_EQ(api.init(0), CuResult::kSuccess);
    CHECK_EQ(api.describe(CuResult::kNotReady), "CUDA_ERROR_NOT_READY (device not ready)");
    CHECK(api.memcpy_batch_async == nullptr);
    CHECK_EQ(driver->calls("cuGetProcAddress") > before, hidden == "cuGetProcAddress_v2");
  }
}

TEST(driver_that_refuses_to_start_says_what_to_try) {
  const Driver driver;
  driver->fail("cuInit", 0, 3);
  CHECK_EQ(open_status(0).text,
           "cuInit: CUDA_ERROR_NOT_INITIALIZED (initialization error); a forked child of a process that used CUDA "
           "cannot: use spawn");
  driver->set_device_count(0);
  const Status status = open_status(0);
  CHECK_EQ(status.code, Code::kNoDevice);
  CHECK_EQ(status.system_code, 100);
  CHECK_EQ(status.text,
           "cuInit: CUDA_ERROR_NO_DEVICE (no CUDA-capable device is detected); is a GPU present, and does "
           "CUDA_VISIBLE_DEVICES admit it?");
}

TEST(device_that_does_not_exist_is_told_how_many_do) {
  const Driver driver;
  const Status status = open_status(7);
  CHECK_EQ(status.code, Code::kNoDevice);
  CHECK_EQ(status.text, "cuda:7 does not exist; this machine has 2 CUDA devices");
  CHECK_EQ(open_status(-1).text, "cuda:-1 does not exist; this machine has 2 CUDA devices");
  driver->set_device_count(1);
  CHECK_EQ(open_status(1).text, "cuda:1 does not exist; this machine has 1 CUDA device");
}
