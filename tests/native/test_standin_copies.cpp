// The stand-in driver itself: each kind of misuse of its copies of rows and batches is found out.
#include <limits>

#include "cuda_fixture.hpp"

using namespace cuda_tests;

namespace {

constexpr std::size_t kBytes = 256;

// Everything that a batch of two good copies takes; a test spoils one thing.
struct Batch {
  CudaApi api;
  std::array<CuDevicePtr, 2> targets{};
  std::array<CuDevicePtr, 2> sources{};
  std::array<std::size_t, 2> sizes{100, 28};
  CuMemcpyAttributes attributes{CuSourceOrder::kStream, {}, {}, kCuMemcpyPreferOverlapWithCompute};
  std::size_t first_of_attributes = 0;
  std::size_t attribute_count = 1;
  std::size_t failed = 7;
  CuStream stream{};

  [[nodiscard]] CuResult run() {
    return api.memcpy_batch_async(targets.data(), sources.data(), sizes.data(), 2, &attributes, &first_of_attributes,
                                  attribute_count, &failed, stream);
  }
};

struct Setting {
  std::shared_ptr<CudaDevice> device = open_device();
  bool entered = device->enter_thread().ok();
  Pinned source{device, kBytes, std::byte{4}};
  Block target{device, kBytes};
  Stream stream = make_stream(device);

  [[nodiscard]] Batch batch(const Driver& driver) const {
    Batch out{.api = functions_of(driver)};
    const auto from = reinterpret_cast<std::uintptr_t>(source.bytes.data());
    out.targets = {CuDevicePtr{target.span().address}, CuDevicePtr{target.span().address + 100}};
    out.sources = {CuDevicePtr{from}, CuDevicePtr{from + 100}};
    out.stream = CuStream{stream.view().handle};
    return out;
  }
  [[nodiscard]] CopyBlock rectangle(std::size_t target_pitch, std::size_t source_pitch) const {
    return {target.span().address, target_pitch, source.bytes.data(), source_pitch, 10, 5};
  }
};

// Spoils a batch and expects it to be refused with one violation that says `text`, and nothing to move.
template <class Spoil>
void refuses(const char* text, std::size_t failed, Spoil&& spoil) {
  const Driver driver;
  {
    const Setting setting;
    Batch batch = setting.batch(driver);
    spoil(batch);
    CHECK_EQ(batch.run(), CuResult::kInvalidValue);
    CHECK_EQ(batch.failed, failed);
    CHECK_EQ(driver->count("copies_issued"), 0);
  }
  const std::string found = driver->violation_text();
  CHECK(found.starts_with("1: cuMemcpyBatchAsync: "));
  CHECK(found.find(text) != std::string::npos || check::fail(__FILE__, __LINE__, found));
  driver->reset();
}

constexpr std::size_t kNoneFailed = std::numeric_limits<std::size_t>::max();

}  // namespace

TEST(good_batch_is_taken) {
  const Driver driver;
  const Setting setting;
  Batch batch = setting.batch(driver);
  CHECK_EQ(batch.run(), CuResult::kSuccess);
  CHECK_EQ(driver->count("copies_issued"), 2);
  CHECK_EQ(driver->count("unpinned_copies"), 0);
}

TEST(batch_that_breaks_a_rule_is_refused_whole) {
  refuses("the legacy stream", kNoneFailed, [](Batch& batch) { batch.stream = CuStream{0}; });
  refuses("the legacy stream", kNoneFailed, [](Batch& batch) { batch.stream = CuStream{1}; });
  refuses("attributes for other copies", kNoneFailed, [](Batch& batch) { batch.attribute_count = 0; });
  refuses("attributes for other copies", kNoneFailed, [](Batch& batch) { batch.first_of_attributes = 1; });
  refuses("unknown flags", kNoneFailed, [](Batch& batch) { batch.attributes.flags = 2; });
  refuses("a copy of no bytes", 1, [](Batch& batch) { batch.sizes[1] = 0; });
  refuses("not inside an allocation of this device: 257 bytes", 0, [](Batch& batch) { batch.sizes[0] = 257; });
  refuses("two copies into the same bytes", kNoneFailed, [](Batch& batch) { batch.sizes[0] = 101; });
  refuses("not inside one registration: 28 bytes", 1, [](Batch& batch) {
    batch.sources[1] = CuDevicePtr{static_cast<std::uintptr_t>(batch.sources[0]) + kBytes - 27};
  });
  for (const auto order : {CuSourceOrder::kInvalid, CuSourceOrder::kDuringCall, CuSourceOrder::kAny}) {
    refuses("sources out of stream order", kNoneFailed, [&](Batch& batch) { batch.attributes.source_order = order; });
  }
}

TEST(batch_without_a_context_is_found) {
  const Driver driver;
  {
    const Setting setting;
    Batch batch = setting.batch(driver);
    CuContext popped{};
    CHECK_EQ(batch.api.ctx_pop_current(&popped), CuResult::kSuccess);
    CHECK_EQ(batch.run(), CuResult::kInvalidContext);
  }
  CHECK_EQ(driver->violation_text(), "1: cuMemcpyBatchAsync without a current context\n");
  driver->reset();
}

TEST(batch_of_unpinned_bytes_reads_them_in_their_turn) {
  const Driver driver;
  const Setting setting;
  std::vector<std::byte> ordinary(128, std::byte{1});
  Batch batch = setting.batch(driver);
  const auto from = reinterpret_cast<std::uintptr_t>(ordinary.data());
  batch.sources = {CuDevicePtr{from}, CuDevicePtr{from + 100}};
  driver->hold_copies();
  CHECK_EQ(batch.run(), CuResult::kSuccess);
  ordinary.assign(128, std::byte{2});
  const Event event = make_event(setting.device);
  CHECK(setting.device->record(event.view(), setting.stream.view()).ok());
  driver->release_all_copies();
  CHECK(setting.device->synchronize(event.view()).ok());
  CHECK(setting.target.peek()[99] == std::byte{2});
  CHECK_EQ(driver->count("unpinned_copies"), 2);
}

TEST(pitch_of_less_than_a_row_is_found) {
  for (const auto& [target_pitch, source_pitch] : {std::pair{9, 10}, std::pair{10, 9}}) {
    const Driver driver;
    {
      const Setting setting;
      CuMemcpy2D copy;
      copy.source_host = setting.source.bytes.data();
      copy.target_device = CuDevicePtr{setting.target.span().address};
      copy.source_pitch = static_cast<std::size_t>(source_pitch);
      copy.target_pitch = static_cast<std::size_t>(target_pitch);
      copy.row_bytes = 10;
      copy.rows = 5;
      const CuStream stream{setting.stream.view().handle};
      CHECK_EQ(functions_of(driver).memcpy_2d_async(&copy, stream), CuResult::kInvalidValue);
    }
    CHECK_EQ(driver->violation_text(), "1: cuMemcpy2DAsync: a pitch of less than a row\n");
    driver->reset();
  }
}

TEST(pitch_above_the_limit_is_refused_and_no_wrong) {
  const Driver driver;
  const Setting setting;
  CuMemcpy2D copy;
  copy.source_pitch = std::size_t{1} << 31;
  copy.target_pitch = copy.row_bytes = copy.rows = 1;
  CHECK_EQ(functions_of(driver).memcpy_2d_async(&copy, CuStream{setting.stream.view().handle}),
           CuResult::kInvalidValue);
}

TEST(rectangle_that_sticks_out_is_found) {
  const Driver driver;
  {
    const Setting setting;
    // 4 pitches and a row: 258 bytes. Refused as a rectangle, then as the row that sticks out.
    const std::array targets{setting.rectangle(62, 10)};
    CHECK_EQ(setting.device->copy_blocks(targets, setting.stream.view()).system_code, 1);
    const std::array sources{setting.rectangle(10, 62)};
    CHECK_EQ(setting.device->copy_blocks(sources, setting.stream.view()).system_code, 1);
  }
  const std::string found = driver->violation_text();
  CHECK(found.find("cuMemcpy2DAsync: not inside an allocation of this device: 258 bytes") != std::string::npos);
  CHECK(found.find("cuMemcpy2DAsync: not inside one registration: 258 bytes") != std::string::npos);
  CHECK(found.find("cuMemcpyHtoDAsync: not inside an allocation of this device: 10 bytes") != std::string::npos);
  CHECK(found.find("cuMemcpyHtoDAsync: not inside one registration: 10 bytes") != std::string::npos);
  driver->reset();
}

TEST(rows_in_flight_are_found_and_gaps_between_them_are_free) {
  const Driver driver;
  {
    const Setting setting;
    driver->hold_copies();
    const std::array blocks{setting.rectangle(50, 20)};
    CHECK(setting.device->copy_blocks(blocks, setting.stream.view()).ok());
    std::vector<std::byte> back(40);
    CHECK(setting.device->read_back(back, setting.target.span().subspan(10, 40)).ok());
    CHECK_EQ(driver->violation_text(), "0: ");
    CHECK(setting.device->read_back(HostSpan(back).first(1), setting.target.span().subspan(209, 1)).ok());
    CHECK(driver->violation_text().starts_with("1: cuMemcpyDtoH: a copy into it is in flight: 1 bytes"));
    driver->release_all_copies();
  }
  driver->reset();
}

TEST(memory_registered_for_one_context_is_ordinary_to_another) {
  const Driver driver;
  const Setting setting;
  const auto other = open_device(1);
  std::vector<std::byte> memory(64, std::byte{9});
  const CudaApi api = functions_of(driver);
  CHECK_EQ(api.mem_host_register(memory.data(), memory.size(), 0), CuResult::kSuccess);
  CHECK_EQ(other->pin(memory).system_code, 712);
  {
    const Block target(other, 64);
    const Stream stream = make_stream(other);
    CHECK(other->copy(target.span(), memory, stream.view()).ok());
  }
  CHECK_EQ(driver->count("unpinned_copies"), 1);
  CHECK_EQ(api.mem_host_unregister(memory.data()), CuResult::kSuccess);
}
