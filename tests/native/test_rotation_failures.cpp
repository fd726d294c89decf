// What a rotation does when step k fails, for every k: everybody learns of it, nothing stays behind.
#include "rotation_fixture.hpp"

using namespace streamload;

namespace {

Turn::Terms terms_of(std::uint32_t units, std::uint32_t slots, std::uint64_t debug_seed) {
  Turn::Terms terms;
  terms.slots = slots;
  terms.slot_of = spread(units, slots);
  terms.order = straight(units);
  terms.debug_seed = debug_seed;
  return terms;
}

Status use_all(const Turn& turn, std::uint32_t uses) {
  HostConsumer consumer{turn};
  Status status;
  for (std::uint32_t use = 0; use < uses && status.ok(); ++use) {
    status = consumer.use(use % turn.rotation->unit_count());
  }
  consumer.finish();
  return status;
}

// Half of the units from page-locked memory, so that both kinds of fill meet every failure.
Status keep_half(const Turn& turn) {
  Status status;
  for (std::uint32_t unit = 0; unit < turn.rotation->unit_count() && status.ok(); unit += 2) {
    const std::byte* bytes = unit_bytes().data() + unit * kUnitBytes;
    status = turn.rotation->keep_on_host(unit, {{bytes, turn.slot(unit)}});
  }
  return status;
}

}  // namespace

TEST(the_failure_of_any_read_is_everybodys) {
  for (const HostDeviceOptions& options : {HostDeviceOptions{}, poisoned()}) {
    const auto device = std::make_shared<HostDevice>(options);
    for (std::uint64_t k = 0; k < 16; ++k) {
      std::atomic<std::uint64_t> reads{0};
      Turn::Terms terms = terms_of(4, 2, 1 + k);
      terms.source = unit_source([&](std::uint64_t offset) {
        if (reads++ < k) return Status{};
        Status status = Status::failure(Code::kReadFailed, "on request", 5);
        status.offset = offset;
        return status;
      });
      const Turn turn(device, readers(), std::move(terms));
      std::jthread other([&] { CHECK(use_all(turn, 1000).code == Code::kReadFailed); });
      const Status status = use_all(turn, 1000);
      CHECK(status.code == Code::kReadFailed);
      CHECK_EQ(status.system_code, 5);
      CHECK(turn.acquire(0).code == Code::kReadFailed);  // and everyone after
      other.join();
      turn.rotation->close();
      CHECK(turn.acquire(0).code == Code::kReadFailed);
      CHECK_EQ(turn.pool->ring().leased(), 0U);
    }
    CHECK_EQ(device->live_objects(), 0U);
  }
}

TEST(the_failure_of_any_host_device_call_ends_the_rotation_and_leaves_nothing) {
  for (const char* step : {"create_stream", "create_event", "record", "wait", "synchronize", "copy", "poison"}) {
    int failures = 0;
    for (std::uint64_t k = 0; k < 24; ++k) {
      HostDeviceOptions options;
      options.fail_step = step;
      options.fail_at = k;
      const auto device = std::make_shared<HostDevice>(options);
      {
        const Turn turn(device, readers(), terms_of(6, 3, 1));
        Status status = turn.started;
        if (status.ok()) status = keep_half(turn);
        if (status.ok()) status = use_all(turn, 24);
        if (!status.ok()) CHECK(status.code == Code::kDeviceFailed);
        failures += status.ok() ? 0 : 1;
        if (turn.rotation) turn.rotation->close();
        CHECK_EQ(turn.pool->ring().leased(), 0U);
      }
      CHECK_EQ(device->live_objects(), 0U);
    }
    CHECK(failures > 0);
  }
}

TEST(the_failure_of_any_driver_call_ends_the_rotation_and_leaves_nothing) {
  constexpr int kCudaErrorUnknown = 999;
  for (const char* function :
       {"cuStreamCreate", "cuEventCreate", "cuEventRecord", "cuStreamWaitEvent", "cuEventSynchronize",
        "cuMemcpyBatchAsync", "cuMemcpyHtoDAsync", "cuMemsetD8Async", "cuCtxSetCurrent", "copy", "batch"}) {
    int failures = 0;
    for (std::uint64_t k = 0; k < 24; ++k) {
      standin().reset();
      std::size_t wrong = 0;
      {
        const auto device = cuda();
        // Memory first: what fails is the rotation.
        const Turn turn(device, readers(), terms_of(6, 3, 1));
        REQUIRE(turn.started.ok());
        StreamConsumer consumer(turn, 24);
        standin().fail(function, k, kCudaErrorUnknown);
        Status status = keep_half(turn);
        for (std::uint32_t use = 0; use < 24 && status.ok(); ++use) status = consumer.use(use % 6);
        if (status.ok()) turn.rotation->close();
        standin().fail(function, ~std::uint64_t{0}, kCudaErrorUnknown);  // not later than that
        failures += status.ok() ? 0 : 1;
        if (status.ok() && std::string(function) != "copy") wrong = consumer.wrong();
        turn.rotation->close();
        CHECK_EQ(turn.pool->ring().leased(), 0U);
      }
      CHECK_EQ(wrong, 0U);
      CHECK_EQ(standin().violation_text(), "0: ");
      CHECK_EQ(standin().live_text(), "0: ");
    }
    // These are called while a rotation starts, or by threads of the pool that have been through it already.
    const bool early = std::string(function) == "cuStreamCreate" || std::string(function) == "cuMemcpyHtoDAsync";
    CHECK(failures > 0 || early);
  }
}

TEST(a_rotation_that_cannot_start_leaves_nothing) {
  constexpr int kCudaErrorUnknown = 999;
  for (const char* function : {"cuStreamCreate", "cuEventCreate", "cuEventRecord", "cuStreamWaitEvent"}) {
    for (std::uint64_t k = 0; k < 2; ++k) {
      on_standin([&] {
        const auto device = cuda();
        Stream allocating;
        REQUIRE(Stream::make(device, allocating).ok());
        standin().fail(function, k, kCudaErrorUnknown);
        Turn::Terms terms = terms_of(4, 2, 0);
        terms.after = allocating.view();
        const Turn turn(device, readers(), std::move(terms));
        CHECK(!turn.started.ok() || std::string(function) == "cuEventRecord");  // once only, before the first fill
      });
    }
  }
}

TEST(a_file_that_changes_under_the_rotation_is_an_error) {
  for (const bool in_place : {true, false}) {
    const auto device = std::make_shared<HostDevice>(in_place ? HostDeviceOptions{} : poisoned());
    const ScratchFile file(4 * kUnitBytes);
    Turn::Terms terms = terms_of(4, 2, 1);
    terms.source = file_source(file, false);
    const Turn turn(device, readers(), std::move(terms));
    CHECK(use_all(turn, 8).ok());
    const ScratchFile other(4 * kUnitBytes);
    CHECK(::link(other.path().c_str(), (other.path() + ".spare").c_str()) == 0);
    CHECK(::rename((other.path() + ".spare").c_str(), file.path().c_str()) == 0);
    const Status status = use_all(turn, 1000);
    CHECK(status.code == Code::kChanged);
    CHECK_EQ(status.source, file.path());
  }
}

TEST(files_stay_open_between_fills_and_are_closed_at_the_end) {
  const auto device = std::make_shared<HostDevice>(poisoned());
  const ScratchFile file(4 * kUnitBytes);
  const std::shared_ptr<Source> source = file_source(file, false);
  const std::size_t before = count_entries("/proc/self/fd");
  Turn::Terms terms = terms_of(4, 2, 1);
  terms.source = source;
  const Turn turn(device, readers(), std::move(terms));
  CHECK(use_all(turn, 4).ok());
  for (int round = 0; round < 8; ++round) {
    CHECK(use_all(turn, 4).ok());
    CHECK(count_entries("/proc/self/fd") > before);
  }
  turn.rotation->close();
  CHECK_EQ(count_entries("/proc/self/fd"), before);
}

TEST(a_checksum_that_differs_names_its_key_over_all_units) {
  const auto device = std::make_shared<HostDevice>(poisoned());
  DeviceSpan memory;
  REQUIRE(device->allocate(kUnitBytes, memory).ok());
  Rotation::Setup setup;
  for (std::uint32_t unit = 0; unit < 3; ++unit) {
    Plan plan = unit_plan(unit, memory.address);
    plan.sums = {{0, 0, 8}};
    plan.sums_by_read = {0};
    plan.reads[0].last_sum = 1;
    plan.keys = {{0, 0, 1, unit == 2 ? std::optional(std::uint32_t{1}) : std::nullopt}};
    setup.units.push_back(std::move(plan));
  }
  setup.slot_of = {0, 0, 0};
  setup.slots = {memory};
  setup.order = {0, 1, 2};
  setup.sources = {unit_source()};
  std::shared_ptr<Rotation> rotation;
  REQUIRE(Rotation::start(device, readers(), std::move(setup), rotation).ok());
  Status status;
  for (std::uint32_t unit = 0; status.ok() && unit < 3; ++unit) {
    Rotation::Want want;
    bool ready = false;
    status = rotation->want(unit, want);
    if (status.ok()) status = rotation->acquire(want, {}, kPatience, ready);
    if (status.ok()) CHECK(rotation->release(unit, {}).ok());
  }
  CHECK(status.code == Code::kChecksum);
  CHECK_EQ(status.key, 2U);
  rotation.reset();
  device->deallocate(memory);
}
