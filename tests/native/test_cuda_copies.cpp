// CudaDevice::copy_blocks against the stand-in driver: which driver calls blocks become, and that every byte lands once
// the event behind them is there, whatever the driver lacks or refuses.
#include "cuda_fixture.hpp"

using namespace cuda_tests;

namespace {

constexpr std::size_t kBytes = 64 << 10;

// A device with a stream, a pinned source full of pattern and a target; waits for its copies before it ends.
struct Setting {
  std::shared_ptr<CudaDevice> device = open_device();
  Pinned source{device, kBytes, std::byte{0}};
  Block target{device, kBytes};
  std::vector<std::byte> before = target.peek();
  Stream stream = make_stream(device);
  Event event = make_event(device);

  Setting() { std::ranges::copy(pattern(kBytes), source.bytes.begin()); }

  [[nodiscard]] CopyBlock row(std::size_t to, std::size_t from, std::size_t nbytes) const {
    return {target.span().address + to, 0, source.bytes.data() + from, 0, nbytes, 1};
  }
  [[nodiscard]] CopyBlock rectangle(std::size_t to, std::size_t from, std::size_t row_bytes, std::size_t rows) const {
    return {target.span().address + to, row_bytes + 3, source.bytes.data() + from, row_bytes + 13, row_bytes, rows};
  }
  // `count` blocks of uneven sizes with a gap behind each.
  [[nodiscard]] std::vector<CopyBlock> rows(std::size_t count) const {
    std::vector<CopyBlock> blocks;
    for (std::size_t i = 0; i < count; ++i) blocks.push_back(row(i * 64, kBytes - 64 * (i + 1), 1 + i % 61));
    return blocks;
  }
  // The blocks land exactly, and nothing else of the target changes.
  void check(std::span<const CopyBlock> blocks, StreamView on) const {
    CHECK_EQ(device->copy_blocks(blocks, on).text, "");
    CHECK(device->record(event.view(), on).ok());
    CHECK(device->synchronize(event.view()).ok());
    CHECK(target.peek() == expected_after(blocks, target.span(), before));
  }
  void check(std::span<const CopyBlock> blocks) const { check(blocks, stream.view()); }
};

// Rows, a rectangle between them, empty blocks anywhere.
std::vector<CopyBlock> mixed(const Setting& setting) {
  std::vector<CopyBlock> blocks = setting.rows(10);
  blocks.push_back(setting.rectangle(1024, 5, 17, 40));
  blocks.push_back(setting.rectangle(2048, 70, 0, 4));
  blocks.push_back(setting.rectangle(2048, 900, 333, 1));
  blocks.push_back(setting.row(4096, 0, 0));
  blocks.push_back(setting.row(4097, 11, 4099));
  CopyBlock none = setting.rectangle(2048, 70, 9, 0);
  blocks.push_back(none);
  blocks.push_back(setting.row(9000, 1, 2));
  blocks.push_back(setting.row(9002, 8, 1));
  return blocks;
}

}  // namespace

TEST(one_row_is_one_plain_copy) {
  const Driver driver;
  const Setting setting;
  setting.check(std::array{setting.row(7, 1001, 4567)});
  CHECK_EQ(driver->calls("cuMemcpyHtoDAsync"), 1);
  CHECK_EQ(driver->count("copies_issued"), 1);
}

TEST(rows_are_one_rectangle_of_any_width_and_pitch) {
  for (const std::size_t row_bytes : {1, 2, 3, 17, 250, 511}) {
    const Driver driver;
    const Setting setting;
    setting.check(std::array{setting.rectangle(5, 9, row_bytes, 100)});
    CHECK_EQ(driver->calls("cuMemcpy2DAsync"), 1);
    CHECK_EQ(driver->count("copies_issued"), 1);
    CHECK_EQ(driver->count("bytes_copied"), row_bytes * 100);
    CHECK_EQ(driver->count("unpinned_copies"), 0);
  }
}

TEST(single_rows_are_batches) {
  const Driver driver;
  const Setting setting;
  setting.check(setting.rows(1000));
  CHECK_EQ(driver->calls("cuMemcpyBatchAsync"), 4);
  CHECK_EQ(driver->calls("cuMemcpyHtoDAsync"), 0);
  CHECK_EQ(driver->count("copies_issued"), 1000);
  CHECK_EQ(driver->count("unpinned_copies"), 0);
}

TEST(one_row_left_over_is_no_batch) {
  const Driver driver;
  const Setting setting;
  setting.check(setting.rows(257));
  CHECK_EQ(driver->calls("cuMemcpyBatchAsync"), 1);
  CHECK_EQ(driver->calls("cuMemcpyHtoDAsync"), 1);
}

TEST(mixed_blocks_all_land_and_empty_ones_are_left_out) {
  const Driver driver;
  const Setting setting;
  setting.check(mixed(setting));
  CHECK_EQ(driver->count("copies_issued"), 15);
  CHECK_EQ(driver->calls("cuMemcpy2DAsync"), 1);
}

TEST(blocks_of_no_bytes_need_no_copy) {
  const Driver driver;
  const Setting setting;
  setting.check({});
  setting.check(std::array{setting.row(0, 0, 0), setting.row(8, 0, 0), setting.rectangle(0, 0, 0, 3)});
  CHECK_EQ(driver->count("copies_issued"), 0);
}

TEST(blocks_run_behind_earlier_work_and_ahead_of_later) {
  const Driver driver;
  const Setting setting;
  const Pinned other(setting.device, 128, std::byte{0xEE});
  const DeviceSpan start = setting.target.span().subspan(0, 128);
  driver->hold_copies();
  CHECK(setting.device->copy(start, other.bytes, setting.stream.view()).ok());
  CHECK(setting.device->copy_blocks(setting.rows(3), setting.stream.view()).ok());
  CHECK(setting.device->copy(start, other.bytes, setting.stream.view()).ok());
  const Event behind = make_event(setting.device);
  CHECK(setting.device->record(behind.view(), setting.stream.view()).ok());
  driver->release_copies(4);
  bool done = true;
  CHECK(setting.device->query(behind.view(), done).ok());
  CHECK(!done);
  driver->release_all_copies();
  CHECK(setting.device->synchronize(behind.view()).ok());
  const std::vector<std::byte> got = setting.target.peek();
  CHECK(std::equal(other.bytes.begin(), other.bytes.end(), got.begin()));
  CHECK_EQ(driver->count("copies_done"), 5);
}

TEST(legacy_streams_take_no_batch) {
  for (const std::uintptr_t handle : {0, 1}) {
    const Driver driver;
    const Setting setting;
    setting.check(mixed(setting), StreamView{handle});
    CHECK_EQ(driver->calls("cuMemcpyBatchAsync"), 0);
  }
  const Driver driver;
  const Setting setting;
  setting.check(mixed(setting), StreamView{2});  // the thread's own is a stream like any other
  CHECK(driver->calls("cuMemcpyBatchAsync") > 0);
}

TEST(driver_without_batches_copies_one_by_one) {
  for (const bool old : {false, true}) {
    const Driver driver;
    if (old) {
      driver->set_driver_version(12070);
    } else {
      driver->hide("cuMemcpyBatchAsync");
    }
    const Setting setting;
    setting.check(mixed(setting));
    CHECK_EQ(driver->calls("cuMemcpyBatchAsync"), 0);
    CHECK_EQ(driver->count("copies_issued"), 15);
  }
}

TEST(driver_that_refuses_batches_is_asked_once) {
  for (const int result : {1, 801}) {
    for (const char* step : {"cuMemcpyBatchAsync", "batch"}) {  // outright, or with half of it under way
      const Driver driver;
      const Setting setting;
      driver->fail(step, 0, result);
      setting.check(setting.rows(600));
      setting.check(setting.rows(600));
      CHECK_EQ(driver->calls("cuMemcpyBatchAsync"), 1);
      CHECK_EQ(driver->calls("cuMemcpyHtoDAsync"), 1200);
    }
  }
}

TEST(batch_that_is_refused_at_any_call_lands_all_the_same) {
  for (std::uint64_t k = 0; k < 4; ++k) {
    const Driver driver;
    const Setting setting;
    driver->fail("batch", k, 1);
    setting.check(setting.rows(1000));
    CHECK_EQ(driver->calls("cuMemcpyBatchAsync"), k + 1);
  }
}

TEST(rectangle_that_is_refused_goes_row_by_row) {
  for (const int result : {1, 801}) {
    for (const bool batches : {true, false}) {
      const Driver driver;
      if (!batches) driver->hide("cuMemcpyBatchAsync");
      const Setting setting;
      driver->fail("cuMemcpy2DAsync", 0, result);
      const std::array blocks{setting.rectangle(3, 5, 19, 700), setting.rectangle(20'000, 7, 100, 10)};
      setting.check(blocks);
      CHECK_EQ(driver->calls("cuMemcpy2DAsync"), 2);  // the next one is tried again
      CHECK_EQ(driver->calls("cuMemcpyBatchAsync"), batches ? 3 : 0);
      CHECK_EQ(driver->count("copies_issued"), 701);
    }
  }
}

TEST(batch_that_fails_names_the_copy_that_was_wrong) {
  const Driver driver;
  const Setting setting;
  const std::vector<CopyBlock> blocks = setting.rows(100);
  driver->fail("batch", 0, 700);
  const Status status = setting.device->copy_blocks(blocks, setting.stream.view());
  std::ostringstream expected;
  expected << "cuMemcpyBatchAsync: CUDA_ERROR_ILLEGAL_ADDRESS (an illegal memory access was encountered), "
           << blocks[50].row_bytes << " bytes to 0x" << std::hex << blocks[50].target << " on cuda:0";
  CHECK_EQ(status.text, expected.str());
  CHECK_EQ(status.code, Code::kDeviceFailed);
}

TEST(batch_that_fails_as_a_whole_says_how_much_it_was) {
  const Driver driver;
  const Setting setting;
  driver->fail("cuMemcpyBatchAsync", 0, 2);
  const Status status =
      setting.device->copy_blocks(std::array{setting.row(0, 0, 10), setting.row(10, 0, 5)}, setting.stream.view());
  CHECK_EQ(status.text, "cuMemcpyBatchAsync: CUDA_ERROR_OUT_OF_MEMORY (out of memory), 15 bytes on cuda:0");
  CHECK_EQ(status.code, Code::kOutOfDeviceMemory);
  CHECK_EQ(driver->calls("cuMemcpyHtoDAsync"), 0);
}

TEST(copy_of_a_batch_that_fails_on_the_device_is_told_by_the_wait) {
  for (std::uint64_t k = 0; k < 15; ++k) {
    const Driver driver;
    const Setting setting;
    driver->fail("copy", k, 700);
    driver->hold_copies();
    CHECK(setting.device->copy_blocks(mixed(setting), setting.stream.view()).ok());
    CHECK(setting.device->record(setting.event.view(), setting.stream.view()).ok());
    driver->release_all_copies();
    CHECK_EQ(setting.device->synchronize(setting.event.view()).system_code, 700);
    CHECK_EQ(driver->count("copies_done"), k);
  }
}

TEST(copies_are_timed_in_calls_of_any_size) {
  const Driver driver;
  const Setting setting;
  const std::vector<CopyBlock> blocks = setting.rows(100);
  std::vector<double> seconds;
  CHECK_EQ(setting.device->time_copies(blocks, 1, 2, seconds).text, "");
  CHECK_EQ(seconds.size(), 2);
  CHECK_EQ(driver->calls("cuMemcpyHtoDAsync"), 200);
  CHECK_EQ(setting.device->time_copies(blocks, 0, 2, seconds).text, "");
  CHECK_EQ(driver->calls("cuMemcpyBatchAsync"), 2);
  CHECK(setting.target.peek() == expected_after(blocks, setting.target.span(), setting.before));
}
