// What a profiler sees of a load: NVTX loads a recorder, as it would load Nsight Systems, and ranges come out.
#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <set>

#include "core/ranges.hpp"
#include "profiler/recorder.hpp"
#include "rotation_fixture.hpp"

using namespace streamload;
using recorder::Record;
using recorder::Recorded;

namespace {

#ifdef STREAMLOAD_RECORDER_PATH

// Before NVTX first looks, which it does once.
const int attached = ::setenv("NVTX_INJECTION64_PATH", STREAMLOAD_RECORDER_PATH, 1);

Record take() {
  Record found;
  void* library = ::dlopen(STREAMLOAD_RECORDER_PATH, RTLD_NOW | RTLD_NOLOAD);  // NVTX has loaded it
  const auto take_from = library ? reinterpret_cast<recorder::Take>(::dlsym(library, "recorder_take")) : nullptr;
  REQUIRE(take_from != nullptr);
  take_from(found);
  ::dlclose(library);
  return found;
}

std::uint64_t bytes_of(const Record& record, const char* name) {
  std::uint64_t bytes = 0;
  for (const Recorded& range : record.ranges) bytes += range.name == name ? range.bytes : 0;
  return bytes;
}

std::size_t count_of(const Record& record, const char* name) {
  return static_cast<std::size_t>(std::ranges::count(record.ranges, name, &Recorded::name));
}

// Every range began and ended, has our domain and a group's name.
void check_sound(const Record& record) {
  CHECK_EQ(record.wrong, 0);
  CHECK(!record.ranges.empty());
  for (const Recorded& range : record.ranges) {
    CHECK(range.ended);
    CHECK_EQ(range.domain, "streamload");
    CHECK(range.category.starts_with("group "));
    CHECK_EQ(range.depth, 0);
  }
}

Record load_all(const std::shared_ptr<Device>& device, std::shared_ptr<Source> source) {
  CHECK(ranges_wanted());
  static_cast<void>(take());
  {
    Load load(device);
    REQUIRE(load.submit(std::move(source)).ok());
    for (std::uint32_t group = 0; group < kGroups; ++group) CHECK(load.wait_group(group).ok());
    CHECK(load.wait_all().ok());
    CHECK(load.holds(0, kBytes));
  }
  Record record = take();
  check_sound(record);
  return record;
}

// By group: bytes of one kind.
std::map<std::string, std::uint64_t> by_group(const Record& record, const char* name) {
  std::map<std::string, std::uint64_t> found;
  for (const Recorded& range : record.ranges) {
    if (range.name == name) found[range.category] += range.bytes;
  }
  return found;
}

std::map<std::string, std::uint64_t> every_group() {
  std::map<std::string, std::uint64_t> expected;
  for (std::uint32_t group = 0; group < kGroups; ++group) expected["group " + std::to_string(group)] = kGroupBytes;
  return expected;
}

#endif

}  // namespace

#ifdef STREAMLOAD_RECORDER_PATH

TEST(ranges_of_a_staged_load_have_every_byte_read_copied_and_landed) {
  const auto check = [](const std::shared_ptr<Device>& device) {
    const Record record = load_all(device, pattern_source());
    for (const char* name : {"read", "copy", "land"}) {
      CHECK_EQ(count_of(record, name), kGroups * kReadsPerGroup);
      CHECK(by_group(record, name) == every_group());
    }
    for (const Recorded& range : record.ranges) {
      CHECK(range.pushed);
      if (range.name == "wait") CHECK_EQ(range.bytes, kGroupBytes);
    }
  };
  check(std::make_shared<HostDevice>(poisoned()));
  on_standin([&] { check(cuda()); });
}

TEST(reads_into_place_need_no_copies) {
  const ScratchFile file(kBytes);
  const Record record = load_all(std::make_shared<HostDevice>(HostDeviceOptions{}), file_source(file, false));
  CHECK(by_group(record, "read") == every_group());
  CHECK_EQ(count_of(record, "copy"), 0U);
  CHECK_EQ(count_of(record, "land"), 0U);
}

TEST(direct_reads_have_every_byte_too) {
  const ScratchFile file(kBytes);
  for (const bool in_place : {true, false}) {
    const auto options = in_place ? HostDeviceOptions{} : poisoned();
    const Record record = load_all(std::make_shared<HostDevice>(options), file_source(file, true));
    CHECK(by_group(record, "read") == every_group());
    CHECK_EQ(bytes_of(record, "copy"), bytes_of(record, "land"));
  }
}

TEST(ranges_of_a_rotation_say_which_unit) {
  static_cast<void>(take());
  std::uint64_t read = 0;
  {
    const Turn turn(std::make_shared<HostDevice>(poisoned()), readers(), [] {
      Turn::Terms terms;
      terms.slots = 2;
      terms.slot_of = spread(5, 2);
      terms.order = straight(5);
      return terms;
    }());
    HostConsumer consumer{turn};
    for (std::uint32_t pass = 0; pass < 3; ++pass) {
      for (std::uint32_t unit = 0; unit < 5; ++unit) CHECK_EQ(consumer.use(unit).text, "");
    }
    consumer.finish();
    turn.rotation->close();
    read = turn.rotation->stats().bytes_read;
  }
  const Record record = take();
  check_sound(record);
  CHECK(read >= 3 * 5 * kUnitBytes);
  CHECK(bytes_of(record, "read") >= read);  // what was under way at the end is in no figure
  const auto units = by_group(record, "copy");
  CHECK_EQ(units.size(), 5U);
  for (std::uint32_t unit = 0; unit < 5; ++unit) CHECK(units.contains("group " + std::to_string(unit)));
  CHECK_EQ(bytes_of(record, "wait") % kUnitBytes, 0U);
}

TEST(ranges_of_a_load_that_fails_end_all_the_same) {
  for (std::size_t step = 0; step < kGroups * kReadsPerGroup; ++step) {
    static_cast<void>(take());
    {
      Load load(std::make_shared<HostDevice>(poisoned()));
      std::atomic<std::size_t> reads{0};
      const auto source = pattern_source([&](std::uint64_t, std::uint64_t) {
        return reads++ == step ? Status::failure(Code::kReadFailed, "no more") : Status{};
      });
      REQUIRE(load.submit(source).ok());
      CHECK(!load.wait_all().ok());
    }
    check_sound(take());
  }
}

TEST(a_range_under_way_may_move_and_end_on_another_thread) {
  static_cast<void>(take());
  RangeUnderWay first(RangeKind::kRead, 3, 77);
  RangeUnderWay second = std::move(first);
  first.end();  // has nothing any more
  std::thread([&] { second.end(); }).join();
  second.end();
  const Record record = take();
  REQUIRE(record.ranges.size() == 1U);
  CHECK(record.ranges[0].ended && !record.ranges[0].pushed);
  CHECK_EQ(record.ranges[0].bytes, 77U);
  CHECK_EQ(record.wrong, 0);
}

TEST(ranges_of_a_thread_lie_within_each_other) {
  static_cast<void>(take());
  {
    const Range outer(RangeKind::kWait, 0, 1);
    const Range inner(RangeKind::kRead, 1, 2);
  }
  const Record record = take();
  REQUIRE(record.ranges.size() == 2U);
  CHECK_EQ(record.ranges[0].depth, 0);
  CHECK_EQ(record.ranges[1].depth, 1);
  CHECK(record.ranges[0].ended && record.ranges[1].ended);
}

#else

TEST(without_the_headers_of_nvtx_nothing_is_shown) {
  std::printf("skipped: the headers of NVTX were not found (the wheel nvidia-nvtx, or a CUDA toolkit)\n");
  CHECK(!ranges_built());
  CHECK(!ranges_wanted());
  const Range range(RangeKind::kRead, 0, 1);
  RangeUnderWay(RangeKind::kRead, 0, 1).end();
}

#endif
