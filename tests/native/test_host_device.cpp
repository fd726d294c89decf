#include <chrono>
#include <thread>
#include <vector>

#include "check.hpp"
#include "device/host_device.hpp"

using namespace streamload;

namespace {

DeviceSpan span_of(std::vector<std::byte>& bytes) {
  return DeviceSpan{reinterpret_cast<std::uintptr_t>(bytes.data()), bytes.size()};
}

// Five rows of ten bytes, 13 and 20 bytes apart.
CopyBlock rectangle(std::vector<std::byte>& target, const std::vector<std::byte>& source) {
  return {span_of(target).address, 13, source.data(), 20, 10, 5};
}

std::vector<std::byte> counted(std::size_t nbytes) {
  std::vector<std::byte> bytes(nbytes);
  for (std::size_t i = 0; i < nbytes; ++i) bytes[i] = static_cast<std::byte>(i);
  return bytes;
}

}  // namespace

TEST(copies_land_in_the_order_they_were_queued) {
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  Stream stream;
  Event event;
  REQUIRE(Stream::make(device, stream).ok());
  REQUIRE(Event::make(device, event).ok());
  std::vector<std::byte> target(1000);
  std::vector<std::vector<std::byte>> sources;
  for (int i = 0; i < 50; ++i) sources.emplace_back(1000, static_cast<std::byte>(i));
  for (const auto& source : sources) CHECK(device->copy(span_of(target), source, stream.view()).ok());
  CHECK(device->record(event.view(), stream.view()).ok());
  CHECK(device->synchronize(event.view()).ok());
  CHECK(target[999] == std::byte{49});
  bool done = false;
  CHECK(device->query(event.view(), done).ok());
  CHECK(done);
}

TEST(rectangles_land_row_by_row_and_leave_the_gaps) {
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  std::vector<std::byte> target(100, std::byte{0xFF});
  const std::vector<std::byte> source = counted(100);
  Stream stream;
  REQUIRE(Stream::make(device, stream).ok());
  std::vector<CopyBlock> blocks{rectangle(target, source)};
  blocks.push_back({span_of(target).address + 70, 0, source.data() + 90, 0, 7, 1});
  blocks.push_back({span_of(target).address, 0, source.data(), 0, 0, 9});
  blocks.push_back({});
  CHECK(device->copy_blocks(blocks, stream.view()).ok());
  blocks.assign(4, {});  // the list is the caller's again at once
  stream.reset();
  for (std::size_t i = 0; i < target.size(); ++i) {
    const std::size_t row = i / 13;
    auto expected = std::byte{0xFF};
    if (row < 5 && i % 13 < 10) expected = source[row * 20 + i % 13];
    if (i >= 70 && i < 77) expected = source[i + 20];
    CHECK(target[i] == expected);
  }
}

TEST(many_threads_push_blocks_to_one_stream) {
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kCalls = 200;
  constexpr std::size_t kBlocks = 25;
  std::vector<std::byte> target(kThreads * kCalls * kBlocks);
  const std::vector<std::byte> source = counted(target.size());
  Stream stream;
  REQUIRE(Stream::make(device, stream).ok());
  {
    std::vector<std::jthread> threads;
    for (std::size_t thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        for (std::size_t call = 0; call < kCalls; ++call) {
          std::vector<CopyBlock> blocks;
          for (std::size_t i = 0; i < kBlocks; ++i) {
            const std::size_t at = (thread * kCalls + call) * kBlocks + i;
            blocks.push_back({span_of(target).address + at, 0, source.data() + at, 0, 1, 1});
          }
          CHECK(device->copy_blocks(blocks, stream.view()).ok());
        }
      });
    }
  }
  stream.reset();
  CHECK(target == source);
}

TEST(a_stream_that_waits_for_an_event_sees_what_came_before_it) {
  HostDeviceOptions options;
  options.seed = 7;  // random delays
  const auto device = std::make_shared<HostDevice>(options);
  Stream producer;
  Stream consumer;
  Event filled;
  Event used;
  REQUIRE(Stream::make(device, producer).ok() && Stream::make(device, consumer).ok());
  REQUIRE(Event::make(device, filled).ok() && Event::make(device, used).ok());
  std::vector<std::byte> middle(64);
  std::vector<std::byte> last(64);
  for (int i = 1; i < 100; ++i) {
    const std::vector<std::byte> source(64, static_cast<std::byte>(i));
    CHECK(device->copy(span_of(middle), source, producer.view()).ok());
    CHECK(device->record(filled.view(), producer.view()).ok());
    CHECK(device->wait(consumer.view(), filled.view()).ok());
    CHECK(device->copy(span_of(last), middle, consumer.view()).ok());
    CHECK(device->record(used.view(), consumer.view()).ok());
    CHECK(device->synchronize(used.view()).ok());
    CHECK(last[63] == static_cast<std::byte>(i));
  }
}

TEST(an_event_never_recorded_counts_as_complete_as_in_cuda) {
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  Event event;
  REQUIRE(Event::make(device, event).ok());
  CHECK(device->synchronize(event.view()).ok());
  CHECK(device->wait(StreamView{}, event.view()).ok());
}

TEST(a_paced_link_takes_its_time_and_an_expedited_one_does_not) {
  HostDeviceOptions options;
  options.link_bytes_per_second = 1e6;
  const auto device = std::make_shared<HostDevice>(options);
  Stream stream;
  Event event;
  REQUIRE(Stream::make(device, stream).ok() && Event::make(device, event).ok());
  std::vector<std::byte> target(50'000'000);  // 50 s of link
  const std::vector<std::byte> source(target.size(), std::byte{3});
  CHECK(device->copy(span_of(target), source, stream.view()).ok());
  CHECK(device->record(event.view(), stream.view()).ok());
  bool done = true;
  CHECK(device->query(event.view(), done).ok());
  CHECK(!done);
  device->expedite(stream.view());
  CHECK(device->synchronize(event.view()).ok());
  CHECK(target.back() == std::byte{3});
}

TEST(a_paced_link_counts_the_bytes_that_move) {
  HostDeviceOptions options;
  options.link_bytes_per_second = 2'500;
  const auto device = std::make_shared<HostDevice>(options);
  std::vector<std::byte> target(100);
  const std::vector<std::byte> source(100);
  Stream stream;
  Event event;
  REQUIRE(Stream::make(device, stream).ok() && Event::make(device, event).ok());
  const std::vector<CopyBlock> blocks{rectangle(target, source)};  // 50 bytes, whatever the pitches
  const auto start = std::chrono::steady_clock::now();
  CHECK(device->copy_blocks(blocks, stream.view()).ok());
  CHECK(device->record(event.view(), stream.view()).ok());
  CHECK(device->synchronize(event.view()).ok());
  CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(18));  // 20 ms less the slack
}

TEST(two_streams_share_one_link) {
  HostDeviceOptions options;
  options.link_bytes_per_second = 100e6;
  const auto device = std::make_shared<HostDevice>(options);
  std::vector<std::byte> target(2'000'000);
  const std::vector<std::byte> source(1'000'000);
  const auto start = std::chrono::steady_clock::now();
  {
    Stream first;
    Stream second;
    Event one;
    Event two;
    REQUIRE(Stream::make(device, first).ok() && Stream::make(device, second).ok());
    REQUIRE(Event::make(device, one).ok() && Event::make(device, two).ok());
    const DeviceSpan all = span_of(target);
    CHECK(device->copy(all.subspan(0, 1'000'000), source, first.view()).ok());
    CHECK(device->copy(all.subspan(1'000'000, 1'000'000), source, second.view()).ok());
    CHECK(device->record(one.view(), first.view()).ok() && device->record(two.view(), second.view()).ok());
    CHECK(device->synchronize(one.view()).ok() && device->synchronize(two.view()).ok());
  }
  // 2 MB at 100 MB/s: 20 ms booked in all, of which the first 2 ms may be slack. Never less, however fast the machine.
  CHECK(std::chrono::steady_clock::now() - start >= std::chrono::milliseconds(17));
}

TEST(each_step_fails_on_request_at_its_call) {
  for (const char* step : {"create_stream", "create_event", "record", "wait", "query", "synchronize", "copy", "pin",
                           "allocate", "read_back"}) {
    std::vector<std::byte> bytes(16);                       // before the device, which may still copy when it ends
    std::vector<std::vector<std::byte>> targets(3, bytes);  // each round has a stream of its own: no order between them
    std::vector<std::byte> back(16);
    HostDeviceOptions options;
    options.fail_step = step;
    options.fail_at = 1;
    const auto device = std::make_shared<HostDevice>(options);
    StreamView stream;
    EventView event;
    DeviceSpan memory;
    bool done = false;
    int failed = 0;
    for (std::size_t round = 0; round < targets.size(); ++round) {
      for (const Status& status :
           {device->create_stream(stream), device->create_event(event), device->record(event, stream),
            device->wait(stream, event), device->query(event, done), device->synchronize(event),
            device->copy(span_of(targets[round]), bytes, stream), device->pin(bytes), device->allocate(16, memory),
            device->read_back(back, span_of(bytes))}) {
        if (status.ok()) continue;
        ++failed;
        CHECK_EQ(round, 1);
        CHECK(status.text.find("on request") != std::string::npos);
      }
    }
    CHECK_EQ(failed, 1);
  }
}

TEST(a_failed_copy_is_one_call_whatever_its_blocks) {
  HostDeviceOptions options;
  options.fail_step = "copy";
  options.fail_at = 1;
  std::vector<std::byte> target(100, std::byte{0xFF});
  const std::vector<std::byte> source = counted(100);
  const auto device = std::make_shared<HostDevice>(options);
  Stream stream;
  REQUIRE(Stream::make(device, stream).ok());
  const std::vector<CopyBlock> blocks{rectangle(target, source),
                                      {span_of(target).address + 80, 0, source.data(), 0, 9, 1}};
  CHECK(device->copy_blocks(blocks, stream.view()).ok());
  const std::vector<CopyBlock> other{{span_of(target).address + 99, 0, source.data(), 0, 1, 1}};
  CHECK_EQ(device->copy_blocks(other, stream.view()).text, "host device: copy failed on request");
  CHECK(device->copy_blocks(blocks, stream.view()).ok());
  stream.reset();
  CHECK(target[99] == std::byte{0xFF});  // what failed moved nothing
}

TEST(sizes_that_differ_are_refused) {
  HostDevice device(HostDeviceOptions{});
  std::vector<std::byte> bytes(8);
  const Status status = device.copy(span_of(bytes), ConstHostSpan(bytes).first(7), StreamView{});
  CHECK_EQ(status.text, "copy of 7 bytes to 8 on host");
  CHECK_EQ(status.code, Code::kInvalid);
}

TEST(poison_overwrites_released_memory) {
  HostDeviceOptions options;
  options.poison = true;
  HostDevice device(options);
  std::vector<std::byte> bytes(32, std::byte{1});
  device.scrub(bytes);
  CHECK(bytes[0] == std::byte{0xA5} && bytes[31] == std::byte{0xA5});
}

TEST(unknown_handles_are_refused) {
  HostDevice device(HostDeviceOptions{});
  std::vector<std::byte> bytes(4);
  CHECK(device.copy(span_of(bytes), bytes, StreamView{99}).code == Code::kInvalid);
  CHECK(device.record(EventView{99}, StreamView{}).code == Code::kInvalid);
  CHECK(device.synchronize(EventView{99}).code == Code::kInvalid);
  device.destroy_stream(StreamView{99});
  device.destroy_event(EventView{99});
}

TEST(the_plain_device_alone_is_filled_in_place) {
  CHECK(HostDevice(HostDeviceOptions{}).fills_in_place());
  HostDeviceOptions paced;
  paced.link_bytes_per_second = 1;
  CHECK(!HostDevice(paced).fills_in_place());
  HostDeviceOptions staged;
  staged.staged = true;
  CHECK(!HostDevice(staged).fills_in_place());
}

TEST(each_host_device_pins_for_itself_and_has_no_node) {
  const HostDevice one(HostDeviceOptions{});
  const HostDevice other(HostDeviceOptions{});
  CHECK(one.pin_domain() != other.pin_domain());
  CHECK_EQ(one.pin_domain(), one.pin_domain());
  CHECK_EQ(one.numa_node(), -1);
}

TEST(measuring_a_paced_link_finds_its_rate) {
  HostDeviceOptions options;
  options.link_bytes_per_second = 200e6;
  HostDevice device(options);
  std::vector<double> seconds;
  CHECK(device.measure_link(2'000'000, 3, seconds).ok());
  CHECK_EQ(seconds.size(), 3U);
  for (const double one : seconds) CHECK(one >= 0.0075);  // 10 ms less the slack of 2 ms
}

TEST(timed_copies_land_and_leave_nothing) {
  HostDevice device(HostDeviceOptions{});
  std::vector<std::byte> target(100, std::byte{0xFF});
  const std::vector<std::byte> source = counted(100);
  std::vector<CopyBlock> blocks;
  for (std::size_t i = 0; i < 100; ++i) blocks.push_back({span_of(target).address + i, 0, source.data() + i, 0, 1, 1});
  for (const std::size_t blocks_per_call : {0, 1, 7, 1000}) {
    target.assign(100, std::byte{0xFF});
    std::vector<double> seconds{1};
    CHECK(device.time_copies(blocks, blocks_per_call, 3, seconds).ok());
    CHECK_EQ(seconds.size(), 3U);
    CHECK(target == source);
  }
  std::vector<double> seconds;
  CHECK(device.time_copies({}, 0, 5, seconds).ok());
  CHECK_EQ(seconds.size(), 5U);
  CHECK_EQ(device.live_objects(), 0);
}

TEST(timed_copies_that_fail_say_so_and_leave_nothing) {
  for (const char* step : {"create_stream", "create_event", "copy", "record", "synchronize"}) {
    HostDeviceOptions options;
    options.fail_step = step;
    HostDevice device(options);
    std::vector<std::byte> target(10);
    const CopyBlock all{span_of(target).address, 0, target.data(), 0, 0, 1};
    std::vector<double> seconds;
    CHECK_EQ(device.time_copies({&all, 1}, 0, 2, seconds).code, Code::kDeviceFailed);
    CHECK_EQ(device.live_objects(), 0);
  }
}
