// Streams, events and memory. The copies are in standin_copies.cpp.
#include <cstdlib>
#include <cstring>
#include <string>

#include "standin/standin_call.hpp"

using namespace standin;  // NOLINT(google-build-using-namespace): this file is the other half of it

namespace {

constexpr int kFreshByte = 0xCD;
constexpr int kFreedByte = 0xDD;
constexpr std::size_t kAlignment = 512;

void wait_for(Call& call, const std::shared_ptr<Mark>& mark) {
  State::get().changed.wait(call.lock, [&] { return mark->done; });
}

CuResult broken(int device) { return State::get().contexts.at(static_cast<std::size_t>(device)).broken; }

}  // namespace

// --- streams -----------------------------------------------------------------------------------------------------

STANDIN_EXPORT CuResult cuStreamCreate(CuStream* stream, unsigned flags) {
  const Call call("cuStreamCreate", Kind::kContext);
  if (call.refused()) return call.result;
  // A blocking stream would have to wait for the legacy one and the other way round; nobody here wants that.
  if (flags != streamload::kCuStreamNonBlocking) return call.wrong("a blocking stream", CuResult::kInvalidValue);
  *stream = State::get().create_stream(State::get().current_device());
  return kOk;
}

STANDIN_EXPORT CuResult cuStreamDestroy_v2(CuStream handle) {
  Call call("cuStreamDestroy", Kind::kGiveBack);
  if (call.result == CuResult::kDeinitialized) return call.result;
  State& state = State::get();
  if (static_cast<std::uintptr_t>(handle) <= 2) return call.wrong("a default stream", CuResult::kInvalidHandle);
  const std::shared_ptr<Stream> stream = state.find_stream(call.function, handle);
  if (stream == nullptr) return CuResult::kInvalidHandle;
  state.streams.erase(handle);
  if (!stream->queue.empty()) static_cast<void>(call.wrong("work is still queued", kOk));
  state.close_stream(call.lock, stream);
  return call.result;
}

// A planned failure is returned after the wait, as the error of earlier work is.
STANDIN_EXPORT CuResult cuStreamSynchronize(CuStream handle) {
  Call call("cuStreamSynchronize", Kind::kGiveBack);
  if (call.result == CuResult::kDeinitialized) return call.result;
  const std::shared_ptr<Stream> stream = State::get().find_stream(call.function, handle);
  if (stream == nullptr) return CuResult::kInvalidHandle;
  const auto mark = std::make_shared<Mark>();
  State::get().enqueue(*stream, {.sets = mark});
  wait_for(call, mark);
  return call.refused() ? call.result : broken(stream->device);
}

STANDIN_EXPORT CuResult cuStreamWaitEvent(CuStream handle, CuEvent event_handle, unsigned flags) {
  const Call call("cuStreamWaitEvent", Kind::kContext);
  if (call.refused()) return call.result;
  if (flags != 0) return CuResult::kInvalidValue;
  const std::shared_ptr<Stream> stream = State::get().find_stream(call.function, handle);
  const Event* event = State::get().find_event(call.function, event_handle);
  if (stream == nullptr || event == nullptr) return CuResult::kInvalidHandle;
  if (event->last == nullptr) return call.wrong("an event that was never recorded: CUDA would not wait", kOk);
  State::get().enqueue(*stream, {.waits_for = event->last});
  return kOk;
}

// --- events ------------------------------------------------------------------------------------------------------

STANDIN_EXPORT CuResult cuEventCreate(CuEvent* event, unsigned flags) {
  const Call call("cuEventCreate", Kind::kContext);
  if (call.refused()) return call.result;
  *event = State::get().create_event(State::get().current_device(), flags);
  return kOk;
}

STANDIN_EXPORT CuResult cuEventDestroy_v2(CuEvent handle) {
  const Call call("cuEventDestroy", Kind::kGiveBack);
  if (call.result == CuResult::kDeinitialized) return call.result;
  if (State::get().find_event(call.function, handle) == nullptr) return CuResult::kInvalidHandle;
  // Complete or not (Driver API, cuEventDestroy): who waits already, waits on.
  State::get().events.erase(handle);
  return call.result;
}

STANDIN_EXPORT CuResult cuEventRecord(CuEvent event_handle, CuStream handle) {
  const Call call("cuEventRecord", Kind::kContext);
  if (call.refused()) return call.result;
  const std::shared_ptr<Stream> stream = State::get().find_stream(call.function, handle);
  Event* event = State::get().find_event(call.function, event_handle);
  if (stream == nullptr || event == nullptr) return CuResult::kInvalidHandle;
  if (stream->device != event->device) return call.wrong("stream of another device", CuResult::kInvalidHandle);
  event->last = std::make_shared<Mark>();
  State::get().enqueue(*stream, {.sets = event->last});
  return kOk;
}

STANDIN_EXPORT CuResult cuEventQuery(CuEvent handle) {
  const Call call("cuEventQuery", Kind::kContext);
  if (call.refused()) return call.result;
  const Event* event = State::get().find_event(call.function, handle);
  if (event == nullptr) return CuResult::kInvalidHandle;
  if (event->last == nullptr) return call.wrong("an event that was never recorded: CUDA calls it complete", kOk);
  if (!event->last->done) return CuResult::kNotReady;
  return broken(event->device);
}

STANDIN_EXPORT CuResult cuEventSynchronize(CuEvent handle) {
  Call call("cuEventSynchronize", Kind::kContext);
  if (call.refused()) return call.result;
  const Event* event = State::get().find_event(call.function, handle);
  if (event == nullptr) return CuResult::kInvalidHandle;
  if (event->last == nullptr) return call.wrong("an event that was never recorded: CUDA would not wait", kOk);
  const int device = event->device;  // the event itself may be gone after the wait
  wait_for(call, std::shared_ptr<Mark>(event->last));
  return broken(device);
}

STANDIN_EXPORT CuResult cuEventElapsedTime(float* milliseconds, CuEvent start_handle, CuEvent end_handle) {
  const Call call("cuEventElapsedTime", Kind::kContext);
  if (call.refused()) return call.result;
  const Event* start = State::get().find_event(call.function, start_handle);
  const Event* end = State::get().find_event(call.function, end_handle);
  if (start == nullptr || end == nullptr) return CuResult::kInvalidHandle;
  if (start->last == nullptr || end->last == nullptr) return call.wrong("not recorded", CuResult::kInvalidHandle);
  if (((start->flags | end->flags) & streamload::kCuEventDisableTiming) != 0) {
    return call.wrong("an event without timing", CuResult::kInvalidHandle);
  }
  if (!start->last->done || !end->last->done) return CuResult::kNotReady;
  *milliseconds = static_cast<float>((end->last->seconds - start->last->seconds) * 1e3);
  return kOk;
}

// --- memory ------------------------------------------------------------------------------------------------------

STANDIN_EXPORT CuResult cuMemAlloc_v2(CuDevicePtr* address, std::size_t nbytes) {
  const Call call("cuMemAlloc", Kind::kContext);
  if (call.refused()) return call.result;
  if (nbytes == 0) return CuResult::kInvalidValue;
  State& state = State::get();
  const int device = state.current_device();
  std::uint64_t used = 0;
  for (const auto& row : state.allocations) used += row.second.device == device ? row.second.nbytes : 0;
  if (nbytes > kDeviceBytes - used) return CuResult::kOutOfMemory;
  const std::size_t rounded = (nbytes + kAlignment - 1) / kAlignment * kAlignment;
  std::unique_ptr<std::byte, FreeBytes> memory(static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded)));
  if (memory == nullptr) return CuResult::kOutOfMemory;
  std::memset(memory.get(), kFreshByte, rounded);
  std::byte* const base = memory.get();
  *address = CuDevicePtr{reinterpret_cast<std::uintptr_t>(base)};
  state.allocations[base] = Allocation{device, nbytes, std::move(memory)};
  return kOk;
}

STANDIN_EXPORT CuResult cuMemFree_v2(CuDevicePtr address) {
  const Call call("cuMemFree", Kind::kGiveBack);
  if (call.result == CuResult::kDeinitialized) return call.result;
  State& state = State::get();
  const auto found = state.allocations.find(host(address));
  if (found == state.allocations.end()) {
    return call.wrong("not allocated, or freed already: " + range(host(address), 0), CuResult::kInvalidValue);
  }
  if (state.in_flight(found->first, found->second.nbytes)) {
    static_cast<void>(call.wrong("a copy into it is in flight: " + range(found->first, found->second.nbytes), kOk));
    state.lost.push_back(std::move(found->second));
  } else {
    std::memset(found->second.memory.get(), kFreedByte, found->second.nbytes);
  }
  state.allocations.erase(found);
  return call.result;
}

STANDIN_EXPORT CuResult cuMemHostRegister_v2(void* address, std::size_t nbytes, unsigned flags) {
  const Call call("cuMemHostRegister", Kind::kContext);
  if (call.refused()) return call.result;
  if (address == nullptr || nbytes == 0) return CuResult::kInvalidValue;
  const auto* start = static_cast<const std::byte*>(address);
  State& state = State::get();
  const int device = state.current_device();
  const bool portable = (flags & streamload::kCuMemHostRegisterPortable) != 0;
  for (int other = 0; other < kDevices; ++other) {
    if (state.pinning(other, start, nbytes) != Pinning::kNone) return CuResult::kHostMemoryAlreadyRegistered;
  }
  state.registrations[start] = Registration{nbytes, portable ? -1 : device};
  return kOk;
}

STANDIN_EXPORT CuResult cuMemHostUnregister(void* address) {
  const Call call("cuMemHostUnregister", Kind::kGiveBack);
  if (call.result == CuResult::kDeinitialized) return call.result;
  State& state = State::get();
  const auto found = state.registrations.find(static_cast<const std::byte*>(address));
  if (found == state.registrations.end()) {
    return call.wrong("not registered: " + range(address, 0), CuResult::kHostMemoryNotRegistered);
  }
  if (state.in_flight(found->first, found->second.nbytes)) {
    static_cast<void>(call.wrong("a copy from it is in flight: " + range(found->first, found->second.nbytes), kOk));
  }
  state.registrations.erase(found);
  return call.result;
}

STANDIN_EXPORT CuResult cuMemcpyDtoH_v2(void* target, CuDevicePtr source, std::size_t nbytes) {
  const Call call("cuMemcpyDtoH", Kind::kContext);
  if (call.refused()) return call.result;
  State& state = State::get();
  if (state.find_allocation(host(source), nbytes) == nullptr) {
    return call.wrong("not inside an allocation: " + range(host(source), nbytes), CuResult::kInvalidValue);
  }
  if (state.in_flight(host(source), nbytes)) {
    std::memset(target, kFreshByte, nbytes);
    return call.wrong("a copy into it is in flight: " + range(host(source), nbytes), kOk);
  }
  std::memcpy(target, host(source), nbytes);
  return kOk;
}
