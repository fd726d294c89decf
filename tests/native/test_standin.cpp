// The stand-in driver itself: each kind of misuse is found out. Its copies of rows and batches are in
// test_standin_copies.cpp; what it does when used well, test_cuda_device shows.
#include "cuda_fixture.hpp"

using namespace cuda_tests;

namespace {

// One violation so far, which says `text`.
bool found_one(const Driver& driver, const std::string& text) {
  const std::string found = driver->violation_text();
  const bool good = found.starts_with("1: ") && found.find(text) != std::string::npos;
  return good || check::fail(__FILE__, __LINE__, "violations are " + found);
}

}  // namespace

TEST(wait_before_record_is_found) {
  const Driver driver;
  {
    const auto device = open_device();
    const Stream stream = make_stream(device);
    const Event event = make_event(device);
    CHECK(device->wait(stream.view(), event.view()).ok());
  }
  CHECK(found_one(driver, "cuStreamWaitEvent: an event that was never recorded"));
  driver->reset();
}

TEST(query_and_synchronize_before_record_are_found) {
  const Driver driver;
  {
    const auto device = open_device();
    const Event event = make_event(device);
    bool done = false;
    CHECK(device->query(event.view(), done).ok());
    CHECK(done);
    CHECK(found_one(driver, "cuEventQuery: an event that was never recorded"));
    CHECK(device->synchronize(event.view()).ok());
  }
  CHECK(driver->violation_text().starts_with("2: "));
  driver->reset();
}

TEST(freeing_memory_in_flight_is_found) {
  const Driver driver;
  {
    const auto device = open_device();
    const Pinned source(device, 64, std::byte{1});
    const Stream stream = make_stream(device);
    DeviceSpan block;
    CHECK(device->allocate(64, block).ok());
    driver->hold_copies();
    CHECK(device->copy(block, source.bytes, stream.view()).ok());
    device->deallocate(block);
    driver->release_all_copies();
  }
  CHECK(found_one(driver, "cuMemFree: a copy into it is in flight"));
  driver->reset();
}

TEST(unpinning_memory_in_flight_is_found) {
  const Driver driver;
  std::vector<std::byte> memory(64);
  {
    const auto device = open_device();
    const Block target(device, 64);
    const Stream stream = make_stream(device);
    CHECK(device->pin(memory).ok());
    driver->hold_copies();
    CHECK(device->copy(target.span(), memory, stream.view()).ok());
    device->unpin(memory);
    driver->release_all_copies();
  }
  CHECK(found_one(driver, "cuMemHostUnregister: a copy from it is in flight"));
  driver->reset();
}

TEST(reading_what_is_in_flight_is_found) {
  const Driver driver;
  {
    const auto device = open_device();
    const Block target(device, 64);
    const Pinned source(device, 64, std::byte{1});
    const Stream stream = make_stream(device);
    driver->hold_copies();
    CHECK(device->copy(target.span(), source.bytes, stream.view()).ok());
    std::vector<std::byte> back(64);
    CHECK(device->read_back(back, target.span()).ok());
    driver->release_all_copies();
  }
  CHECK(found_one(driver, "cuMemcpyDtoH: a copy into it is in flight"));
  driver->reset();
}

TEST(event_given_up_early_still_holds_who_waits) {
  const Driver driver;
  const auto device = open_device();
  const Pinned old_bytes(device, 64, std::byte{1});
  const Pinned new_bytes(device, 64, std::byte{2});
  const Block target(device, 64);
  {
    const Stream first = make_stream(device);
    const Stream second = make_stream(device);
    Event event = make_event(device);
    driver->hold_copies();
    CHECK(device->copy(target.span(), old_bytes.bytes, first.view()).ok());
    CHECK(device->record(event.view(), first.view()).ok());
    CHECK(device->wait(second.view(), event.view()).ok());
    CHECK(device->copy(target.span(), new_bytes.bytes, second.view()).ok());
    event.reset();
    driver->release_all_copies();
  }
  CHECK(target.peek() == new_bytes.bytes);
}

TEST(giving_back_twice_is_found) {
  const Driver driver;
  std::vector<std::byte> memory(64);
  {
    const auto device = open_device();
    DeviceSpan block;
    StreamView stream;
    EventView event;
    CHECK(device->allocate(64, block).ok());
    CHECK(device->create_stream(stream).ok());
    CHECK(device->create_event(event).ok());
    CHECK(device->pin(memory).ok());
    for (int i = 0; i < 2; ++i) {
      device->deallocate(block);
      device->destroy_stream(stream);
      device->destroy_event(event);
      device->unpin(memory);
    }
  }
  const std::string found = driver->violation_text();
  CHECK(found.starts_with("5: "));  // the stream is also synchronised before it is destroyed
  CHECK(found.find("cuMemFree: not allocated, or freed already") != std::string::npos);
  CHECK(found.find("cuStreamDestroy with a stream that does not exist") != std::string::npos);
  CHECK(found.find("cuEventDestroy with an event that does not exist") != std::string::npos);
  CHECK(found.find("cuMemHostUnregister: not registered") != std::string::npos);
  driver->reset();
}

TEST(copy_outside_of_an_allocation_is_found) {
  const Driver driver;
  {
    const auto device = open_device();
    const auto other = open_device(1);
    const Block target(device, 64);
    const Stream stream = make_stream(device);
    const Stream stream_of_other = make_stream(other);
    const Pinned source(device, 65, std::byte{1});
    const DeviceSpan too_long{target.span().address, 65};
    CHECK_EQ(device->copy(too_long, source.bytes, stream.view()).system_code, 1);
    CHECK(found_one(driver, "cuMemcpyHtoDAsync: not inside an allocation of this device: 65 bytes"));
    const ConstHostSpan part = ConstHostSpan(source.bytes).first(64);
    CHECK_EQ(other->copy(target.span(), part, stream_of_other.view()).system_code, 1);
  }
  CHECK(driver->violation_text().starts_with("2: "));
  driver->reset();
}

TEST(copy_across_two_registrations_is_found) {
  const Driver driver;
  std::vector<std::byte> memory(128);
  {
    const auto device = open_device();
    const Block target(device, 128);
    const Stream stream = make_stream(device);
    CHECK(device->pin(HostSpan(memory).first(64)).ok());
    CHECK(device->pin(HostSpan(memory).last(64)).ok());
    CHECK_EQ(device->copy(target.span(), memory, stream.view()).system_code, 1);
    device->unpin(HostSpan(memory).first(64));
    device->unpin(HostSpan(memory).last(64));
  }
  CHECK(found_one(driver, "cuMemcpyHtoDAsync: not inside one registration: 128 bytes"));
  driver->reset();
}

TEST(what_the_last_owner_leaves_behind_is_found) {
  const Driver driver;
  DeviceSpan block;
  CHECK(open_device()->allocate(48, block).ok());
  CHECK(found_one(driver, "the last release leaves behind\nallocation 0x"));
  CHECK(driver->live_text().find("of 48 bytes") != std::string::npos);
  driver->reset();
}

TEST(fresh_memory_is_not_zero) {
  const Driver driver;
  const auto device = open_device();
  const Block block(device, 3);
  CHECK(block.peek() == std::vector<std::byte>(3, std::byte{0xCD}));
}
