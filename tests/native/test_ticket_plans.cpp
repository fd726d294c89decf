// What a plan can ask of a ticket beyond plain copies: rows, checksums, reads that go nowhere, direct reads in place.
#include <array>

#include "core/crc32c.hpp"
#include "core/host_block.hpp"
#include "load_fixture.hpp"

using namespace streamload;

namespace {

constexpr std::size_t kRows = 37;
constexpr std::size_t kRowBytes = 1000;
constexpr std::size_t kFilePitch = 1200;
constexpr std::size_t kPlacePitch = 1300;

std::vector<std::shared_ptr<Device>> host_devices() {
  HostDeviceOptions staged;
  staged.staged = true;
  return {std::make_shared<HostDevice>(HostDeviceOptions{}), std::make_shared<HostDevice>(staged),
          std::make_shared<HostDevice>(poisoned())};
}

// One read of all the rows, gaps between them included.
Plan plan_of_rows(std::uintptr_t target, std::size_t file_pitch) {
  Plan plan;
  plan.group_count = 1;
  plan.nbytes = kRows * kRowBytes;
  plan.reads.push_back({0, 0, 0, (kRows - 1) * file_pitch + kRowBytes, 0, 1});
  plan.copies.push_back({0, target, kRowBytes, kRows, file_pitch, kPlacePitch});
  return plan;
}

void check_rows(const std::shared_ptr<Device>& device, const std::shared_ptr<Source>& source, std::size_t file_pitch) {
  constexpr std::size_t kPlace = kRows * kPlacePitch;
  Load load(device);
  REQUIRE(load.engine->submit(plan_of_rows(load.memory.address, file_pitch), {source}, {}, load.ticket).ok());
  CHECK(load.wait_all().ok());
  std::vector<std::byte> got(kPlace);
  REQUIRE(device->read_back(got, load.memory.subspan(0, kPlace)).ok());
  for (std::size_t row = 0; row < kRows; ++row) {
    const auto expected = pattern(row * file_pitch, kRowBytes);
    CHECK(std::equal(expected.begin(), expected.end(), got.begin() + static_cast<std::ptrdiff_t>(row * kPlacePitch)));
  }
  CHECK_EQ(load.ticket->stats().bytes_resident, kRows * kRowBytes);
  CHECK_EQ(load.ticket->stats().bytes_read, (kRows - 1) * file_pitch + kRowBytes);
}

std::uint32_t crc_of(std::uint64_t offset, std::size_t nbytes) { return crc32c(0, pattern(offset, nbytes)); }

// The plan of the fixture, with a key for each group: all of its bytes, in a piece for each read.
Plan plan_with_sums(std::uintptr_t target) {
  Plan plan = plan_to(target);
  for (std::size_t i = 0; i < plan.reads.size(); ++i) {
    ReadStep& read = plan.reads[i];
    if (i % kReadsPerGroup == 0) {
      plan.keys.push_back({read.group, i, i + kReadsPerGroup, crc_of(read.offset, kGroupBytes)});
    }
    plan.sums.push_back({i, 0, read.nbytes});
    plan.sums_by_read.push_back(i);
    read.first_sum = i;
    read.last_sum = i + 1;
  }
  return plan;
}

}  // namespace

TEST(rows_land_at_their_pitch_on_every_device_and_route) {
  const ScratchFile file(kBytes);
  for (const std::size_t pitch : {kFilePitch, kRowBytes}) {
    for (const bool direct : {true, false}) {
      for (const auto& device : host_devices()) check_rows(device, file_source(file, direct), pitch);
      on_standin([&] { check_rows(cuda(), file_source(file, direct), pitch); });
    }
  }
}

TEST(sums_are_those_of_the_bytes_on_every_device_and_route) {
  const ScratchFile file(kBytes);
  for (const bool direct : {true, false}) {
    for (const auto& device : host_devices()) {
      Load load(device);
      Plan plan = plan_with_sums(load.memory.address);
      plan.keys[2].expected.reset();                         // taken, compared with nothing
      plan.keys.push_back({0, 0, 0, std::uint32_t{12345}});  // of no bytes
      REQUIRE(load.engine->submit(plan, {file_source(file, direct)}, {}, load.ticket).ok());
      CHECK(load.wait_all().ok());
      CHECK(load.holds(0, kBytes));
      const auto sums = load.ticket->sums();
      REQUIRE(sums.size() == kGroups + 1);
      for (std::size_t group = 0; group < kGroups; ++group) {
        CHECK(sums[group] == crc_of(group * kGroupBytes, kGroupBytes));
      }
      CHECK(!sums[kGroups].has_value());
    }
  }
}

TEST(a_wrong_sum_ends_the_load_before_its_group_can_be_used) {
  const ScratchFile file(kBytes);
  for (std::uint32_t wrong = 0; wrong < kGroups; ++wrong) {
    for (const auto& device : host_devices()) {
      Load load(device);
      Plan plan = plan_with_sums(load.memory.address);
      plan.keys[wrong].expected = *plan.keys[wrong].expected ^ 1U;
      REQUIRE(load.engine->submit(plan, {file_source(file)}, {}, load.ticket).ok());
      const Status status = load.wait_all();
      CHECK(status.code == Code::kChecksum);
      CHECK_EQ(status.key, wrong);
      CHECK_EQ(status.offset, wrong * kGroupBytes);
      CHECK_EQ(status.nbytes, kGroupBytes);
      CHECK_EQ(status.actual, crc_of(wrong * kGroupBytes, kGroupBytes));
      CHECK(load.wait_group(wrong).code == Code::kChecksum);
      load.ticket->close();
      CHECK(!load.ticket->resident(wrong));
      CHECK(!load.ticket->sums()[wrong].has_value());
    }
  }
}

TEST(reads_that_go_nowhere_are_summed) {
  const ScratchFile file(kBytes);
  for (const auto& device : host_devices()) {
    Load load(device);
    Plan plan = plan_with_sums(0);
    plan.copies.clear();
    plan.nbytes = 0;
    for (ReadStep& read : plan.reads) read.first_copy = read.last_copy = 0;
    REQUIRE(load.engine->submit(plan, {file_source(file)}, {}, load.ticket).ok());
    CHECK(load.wait_all().ok());
    CHECK_EQ(load.ticket->stats().bytes_read, kBytes);
    CHECK_EQ(load.ticket->stats().bytes_resident, 0U);
    CHECK(load.ticket->sums()[kGroups - 1] == crc_of((kGroups - 1) * kGroupBytes, kGroupBytes));
  }
}

TEST(direct_reads_land_in_place_wherever_address_and_offset_agree) {
  constexpr std::size_t kPlaces = 32;  // offsets into a block that are tried
  constexpr std::size_t kFrom = 1001;  // of the file
  constexpr std::size_t kWanted = kBytes - kFrom;
  const ScratchFile file(kBytes);
  HostBlock block;
  REQUIRE(HostBlock::make(kBytes + 4 * kDirectAlignment, -1, block).ok());
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  std::size_t in_place = 0;
  for (std::size_t i = 0; i < kPlaces; ++i) {
    const std::size_t shift = kFrom % kDirectAlignment + i * 256;
    const auto target = reinterpret_cast<std::uintptr_t>(block.bytes().data()) + shift;
    std::fill(block.bytes().begin(), block.bytes().end(), std::byte{0xEE});
    Load load(device, 2, 4);
    Plan plan;
    plan.group_count = 1;
    plan.nbytes = kWanted;
    for (std::size_t at = kFrom; at < kBytes;) {
      const std::size_t end = std::min(at / kChunk * kChunk + kChunk, kBytes);
      plan.reads.push_back({0, 0, at, end - at, plan.copies.size(), plan.copies.size() + 1});
      plan.copies.push_back({0, target + at - kFrom, end - at});
      at = end;
    }
    REQUIRE(load.engine->submit(plan, {file_source(file, true)}, {}, load.ticket).ok());
    CHECK(load.wait_all().ok());
    const auto expected = pattern(kFrom, kWanted);
    const auto got = block.bytes().subspan(shift, kWanted);
    CHECK(std::equal(expected.begin(), expected.end(), got.begin()));
    CHECK(block.bytes()[shift - 1] == std::byte{0xEE} && block.bytes()[shift + kWanted] == std::byte{0xEE});
    in_place += load.ticket->stats().in_place_bytes;
  }
  CHECK(in_place > 0);  // where the file system has direct reads at all, at least one address in sixteen agrees
}
