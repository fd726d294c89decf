// CudaDevice against the stand-in driver: what each method does, on which thread, and what it leaves.
// Copies of many blocks are in test_cuda_copies.cpp, loading and failing in test_cuda_failures.cpp.
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <latch>
#include <thread>

#include "cuda_fixture.hpp"

using namespace cuda_tests;

namespace {

// The context that is current on this thread, asked of the driver itself.
CuContext current_context(const Driver& driver) {
  CuContext context{};
  CHECK_EQ(functions_of(driver).ctx_get_current(&context), CuResult::kSuccess);
  return context;
}

}  // namespace

TEST(device_names_itself_and_its_place) {
  const Driver driver;
  const auto device = open_device(1);
  CHECK_EQ(device->name(), "cuda:1");
  CHECK_EQ(device->ordinal(), 1);
  CHECK(!device->fills_in_place());
  CHECK(!device->waits_on_host());
  CudaProperties properties;
  CHECK_EQ(device->properties(properties).text, "");
  CHECK_EQ(properties.name, "Stand-in GPU 1");
  CHECK_EQ(properties.pci_bus_id, "ffff:a1:00.0");
  CHECK_EQ(properties.compute_major, 9);
  CHECK_EQ(properties.compute_minor, 1);
  CHECK_EQ(properties.total_bytes, std::uint64_t{8} << 30);
  CHECK_EQ(properties.driver_version, 13000);
  CHECK_EQ(properties.numa_node, -1);
  CHECK_EQ(device->numa_node(), -1);
  driver->fail("cuDeviceGetPCIBusId", 0, 999);
  CHECK_EQ(device->numa_node(), -1);
}

TEST(numa_node_is_read_from_the_kernels_list) {
  const auto directory = std::filesystem::temp_directory_path() / ("streamload-numa-" + std::to_string(getpid()));
  std::filesystem::create_directories(directory / "0000:3b:00.0");
  std::ofstream(directory / "0000:3b:00.0" / "numa_node") << "1\n";
  CHECK_EQ(pci_numa_node("0000:3b:00.0", directory.string()), 1);
  CHECK_EQ(pci_numa_node("0000:3c:00.0", directory.string()), -1);
  std::filesystem::remove_all(directory);
}

TEST(copy_from_pinned_memory_runs_later_and_arrives) {
  const Driver driver;
  const auto device = open_device();
  CHECK(device->enter_thread().ok());
  const Stream stream = make_stream(device);
  const Event event = make_event(device);
  const Pinned source(device, 4096, std::byte{7});
  const Block target(device, 4096);

  driver->hold_copies();
  CHECK(device->copy(target.span(), source.bytes, stream.view()).ok());
  CHECK(device->record(event.view(), stream.view()).ok());
  bool done = true;
  CHECK(device->query(event.view(), done).ok());
  CHECK(!done);
  CHECK(target.peek() != source.bytes);

  driver->release_all_copies();
  CHECK(device->synchronize(event.view()).ok());
  CHECK(device->query(event.view(), done).ok());
  CHECK(done);
  CHECK(target.peek() == source.bytes);
  std::vector<std::byte> back(4096);
  CHECK(device->read_back(back, target.span()).ok());
  CHECK(back == source.bytes);
  CHECK_EQ(driver->count("unpinned_copies"), 0);
  CHECK_EQ(driver->count("bytes_copied"), 4096);
}

TEST(memory_that_one_device_pinned_is_pinned_for_all) {
  const Driver driver;
  const auto zero = open_device(0);
  const auto one = open_device(1);
  CHECK_EQ(zero->pin_domain(), one->pin_domain());
  const Pinned source(zero, 64, std::byte{6});
  const Block target(one, 64);
  {
    const Stream stream = make_stream(one);
    CHECK(one->copy(target.span(), source.bytes, stream.view()).ok());
  }
  CHECK(target.peek() == source.bytes);
  CHECK_EQ(driver->count("unpinned_copies"), 0);
}

TEST(copy_from_ordinary_memory_leaves_the_source_free_at_once) {
  const Driver driver;
  const auto device = open_device();
  const Stream stream = make_stream(device);
  const Event event = make_event(device);
  const Block target(device, 100);
  std::vector<std::byte> source(100, std::byte{3});
  CHECK(device->copy(target.span(), source, stream.view()).ok());
  source.assign(100, std::byte{4});
  CHECK(device->record(event.view(), stream.view()).ok());
  CHECK(device->synchronize(event.view()).ok());
  CHECK(target.peek() == std::vector<std::byte>(100, std::byte{3}));
  CHECK_EQ(driver->count("unpinned_copies"), 1);
}

TEST(empty_spans_need_no_driver) {
  const Driver driver;
  const auto device = open_device();
  DeviceSpan nothing{1, 1};
  CHECK(device->allocate(0, nothing).ok());
  CHECK(nothing.empty());
  CHECK(device->copy(nothing, {}, StreamView{}).ok());
  CHECK(device->read_back({}, nothing).ok());
  CHECK(device->pin({}).ok());
  device->unpin({});
  device->deallocate(nothing);
  device->destroy_stream(StreamView{});
  device->destroy_event(EventView{});
  CHECK_EQ(driver->calls("cuMemAlloc") + driver->calls("cuMemcpyHtoDAsync") + driver->calls("cuMemHostRegister"), 0);
}

TEST(sizes_that_differ_are_refused_before_the_driver) {
  const Driver driver;
  const auto device = open_device();
  std::array<std::byte, 8> bytes{};
  CHECK_EQ(device->copy(DeviceSpan{4096, 9}, bytes, StreamView{}).code, Code::kInvalid);
  CHECK_EQ(device->read_back(bytes, DeviceSpan{4096, 9}).text, "read back of 9 bytes into 8 on cuda:0");
  CHECK_EQ(driver->calls("cuMemcpyHtoDAsync") + driver->calls("cuMemcpyDtoH"), 0);
}

TEST(wait_orders_one_stream_after_another) {
  const Driver driver;
  const auto device = open_device();
  const Stream first = make_stream(device);
  const Stream second = make_stream(device);
  const Event filled = make_event(device);
  const Event finished = make_event(device);
  const Pinned old_bytes(device, 64, std::byte{1});
  const Pinned new_bytes(device, 64, std::byte{2});
  const Block target(device, 64);
  driver->hold_copies();
  CHECK(device->copy(target.span(), old_bytes.bytes, first.view()).ok());
  CHECK(device->record(filled.view(), first.view()).ok());
  CHECK(device->wait(second.view(), filled.view()).ok());
  CHECK(device->copy(target.span(), new_bytes.bytes, second.view()).ok());
  CHECK(device->record(finished.view(), second.view()).ok());
  driver->release_copies(1);
  CHECK(device->synchronize(filled.view()).ok());
  bool done = true;
  CHECK(device->query(finished.view(), done).ok());
  CHECK(!done);
  driver->release_all_copies();
  CHECK(device->synchronize(finished.view()).ok());
  CHECK(target.peek() == new_bytes.bytes);
}

TEST(callers_default_streams_pass_through) {
  const Driver driver;
  const auto device = open_device();
  for (const std::uintptr_t handle : {0, 1, 2}) {
    const Event event = make_event(device);
    CHECK(device->record(event.view(), StreamView{handle}).ok());
    CHECK(device->wait(StreamView{handle}, event.view()).ok());
    CHECK(device->synchronize(event.view()).ok());
  }
}

TEST(other_contexts_stay_current) {
  const Driver driver;
  const auto zero = open_device(0);
  const auto one = open_device(1);
  CHECK(zero->enter_thread().ok());
  const CuContext before = current_context(driver);
  {
    const Stream stream = make_stream(one);
    const Event event = make_event(one);
    const Block target(one, 32);
    const Pinned source(one, 32, std::byte{5});
    CHECK(one->copy(target.span(), source.bytes, stream.view()).ok());
    CHECK(one->record(event.view(), stream.view()).ok());
    CHECK(one->synchronize(event.view()).ok());
    CHECK(target.peek() == source.bytes);
  }
  CHECK(current_context(driver) == before);
  CHECK_EQ(driver->count("pushed"), 1);
}

TEST(thread_without_context_is_left_without) {
  const Driver driver;
  const auto device = open_device();
  static_cast<void>(make_event(device));
  CHECK_EQ(driver->count("pushed"), 0);
}

TEST(entered_thread_pushes_nothing) {
  const Driver driver;
  const auto device = open_device();
  CHECK(device->enter_thread().ok());
  static_cast<void>(make_event(device));
  CHECK_EQ(driver->calls("cuCtxPushCurrent"), 0);
}

TEST(many_threads_share_a_device) {
  const Driver driver;
  constexpr int kThreads = 8;
  const std::array devices{open_device(0), open_device(1)};
  std::latch start(kThreads);
  std::vector<std::jthread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      const auto& device = devices.at(static_cast<std::size_t>(i % 2));
      start.arrive_and_wait();
      if (i < kThreads / 2) CHECK(device->enter_thread().ok());
      for (int round = 0; round < 20; ++round) {
        const Stream stream = make_stream(device);
        const Event event = make_event(device);
        const Pinned source(device, 1000, std::byte(i * 20 + round));
        const Block target(device, 1000);
        CHECK(device->copy(target.span(), source.bytes, stream.view()).ok());
        CHECK(device->record(event.view(), stream.view()).ok());
        CHECK(device->synchronize(event.view()).ok());
        CHECK(target.peek() == source.bytes);
      }
    });
  }
}

TEST(destroying_a_stream_waits_for_its_work) {
  const Driver driver;
  const auto device = open_device();
  const Pinned source(device, 64, std::byte{9});
  const Block target(device, 64);
  {
    const Stream stream = make_stream(device);
    for (int i = 0; i < 50; ++i) CHECK(device->copy(target.span(), source.bytes, stream.view()).ok());
  }
  CHECK_EQ(driver->count("copies_done"), 50);
}

TEST(streams_and_events_keep_their_device) {
  const Driver driver;
  auto device = open_device();
  const Stream stream = make_stream(device);
  device.reset();
  CHECK_EQ(driver->count("contexts"), 1);
}

TEST(two_owners_of_one_device_share_its_context) {
  const Driver driver;
  auto one = open_device();
  const auto other = open_device();
  CHECK_EQ(driver->count("contexts"), 2);
  one.reset();
  CHECK_EQ(driver->count("contexts"), 1);
  static_cast<void>(make_stream(other));
}

TEST(link_is_measured_with_pinned_memory_and_leaves_nothing) {
  const Driver driver;
  const auto device = open_device();
  std::vector<double> seconds{1, 2, 3, 4};
  CHECK_EQ(device->measure_link(1 << 20, 3, seconds).text, "");
  CHECK_EQ(seconds.size(), 3);
  for (const double value : seconds) CHECK(value >= 0);
  CHECK_EQ(driver->count("copies_done"), 4);
  CHECK_EQ(driver->count("unpinned_copies"), 0);
  CHECK_EQ(driver->live_text(), "1: context 0x0\n");
  CHECK_EQ(device->measure_link(0, 3, seconds).code, Code::kInvalid);
  CHECK_EQ(device->measure_link(1, 0, seconds).code, Code::kInvalid);
}

TEST(driver_that_has_shut_down_is_tolerated_at_the_end) {
  const Driver driver;
  auto device = open_device();
  {
    const Stream stream = make_stream(device);
    const Event event = make_event(device);
    const Pinned source(device, 64, std::byte{1});
    const Block target(device, 64);
    driver->shut_down();
    const Status status = device->record(event.view(), stream.view());
    CHECK_EQ(status.system_code, 4);
  }
  device.reset();
  driver->reset();  // what was alive went down with the driver
}

TEST(forked_child_never_touches_the_driver) {
  const Driver driver;
  const auto device = open_device();
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    // The driver's lock could be held by a thread that does not exist here; a call would hang or show in the count.
    bool good = device->enter_thread().code == Code::kForked;
    const std::uint64_t before = driver->calls("cuCtxGetCurrent");
    device->destroy_event(EventView{0x5000});
    device->deallocate(DeviceSpan{0x5000, 1});
    device->~CudaDevice();
    good = good && driver->calls("cuCtxGetCurrent") == before && driver->count("contexts") == 1;
    _exit(good ? 0 : 1);
  }
  int result = -1;
  REQUIRE(waitpid(child, &result, 0) == child);
  CHECK_EQ(result, 0);
}
