#include "device/host_device.hpp"

#include <cstring>
#include <new>

namespace streamload {
namespace {

constexpr int kPoison = 0xA5;

std::byte* host_pointer(std::uintptr_t address) noexcept {
  return reinterpret_cast<std::byte*>(address);  // NOLINT(performance-no-int-to-ptr): a host "device address"
}

}  // namespace

HostDevice::HostDevice(HostDeviceOptions options)
    : options_(std::move(options)),
      simulated_(options_.link_bytes_per_second > 0 || !options_.fail_step.empty() || options_.poison ||
                 options_.seed != 0 || options_.staged),
      link_(std::make_shared<HostLink>(options_.link_bytes_per_second)) {}

HostDevice::~HostDevice() = default;

bool HostDevice::fails(const char* step) noexcept {
  if (options_.fail_step != step) return false;
  const std::uint64_t call = calls_of_fail_step_.fetch_add(1);
  return options_.fail_from ? call >= options_.fail_at : call == options_.fail_at;
}

namespace {

Status refused(const char* step, Code code = Code::kDeviceFailed) {
  return Status::failure(code, std::string("host device: ") + step + " failed on request");
}

Status no_room(std::size_t nbytes) {
  return Status::failure(Code::kOutOfDeviceMemory, "host device: no memory for " + std::to_string(nbytes) + " bytes");
}

Status unknown(const char* what) {
  return Status::failure(Code::kInvalid, std::string("host device: no such ") + what);
}

}  // namespace

std::shared_ptr<HostQueue> HostDevice::find(StreamView stream) const noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = queues_.find(stream.handle);
  return found == queues_.end() ? nullptr : found->second;
}

std::shared_ptr<HostMark> HostDevice::find(EventView event) const noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = marks_.find(event.handle);
  return found == marks_.end() ? nullptr : found->second;
}

Status HostDevice::create_stream(StreamView& out) noexcept {
  if (fails("create_stream")) return refused("create_stream");
  try {
    auto queue = std::make_shared<HostQueue>(link_, options_.seed);
    const std::lock_guard lock(mutex_);
    out = StreamView{next_handle_++};
    queues_.emplace(out.handle, std::move(queue));
  } catch (const std::exception& error) {  // no thread to be had, or no memory
    return Status::failure(Code::kDeviceFailed, std::string("host device: create_stream: ") + error.what());
  }
  return {};
}

void HostDevice::destroy_stream(StreamView stream) noexcept {
  std::shared_ptr<HostQueue> queue;
  {
    const std::lock_guard lock(mutex_);
    const auto found = queues_.find(stream.handle);
    if (found == queues_.end()) return;
    queue = std::move(found->second);
    queues_.erase(found);
  }
  queue.reset();  // joins outside the lock
}

void HostDevice::expedite(StreamView stream) noexcept {
  if (const auto queue = find(stream)) queue->expedite();
}

void HostDevice::drain(StreamView stream) noexcept {
  const auto queue = find(stream);
  if (!queue) return;
  const auto mark = std::make_shared<HostMark>();
  queue->push_record(mark, mark->record());
  mark->wait(mark->recorded());
}

Status HostDevice::create_event(EventView& out) noexcept {
  if (fails("create_event")) return refused("create_event");
  auto mark = std::make_shared<HostMark>();
  const std::lock_guard lock(mutex_);
  out = EventView{next_handle_++};
  marks_.emplace(out.handle, std::move(mark));
  return {};
}

void HostDevice::destroy_event(EventView event) noexcept {
  const std::lock_guard lock(mutex_);
  marks_.erase(event.handle);
}

Status HostDevice::record(EventView event, StreamView stream) noexcept {
  if (fails("record")) return refused("record");
  const auto mark = find(event);
  if (!mark) return unknown("event");
  if (stream.handle == 0) {  // the calling thread: everything before has happened
    mark->complete(mark->record());
    return {};
  }
  const auto queue = find(stream);
  if (!queue) return unknown("stream");
  queue->push_record(mark, mark->record());
  return {};
}

Status HostDevice::wait(StreamView stream, EventView event) noexcept {
  if (fails("wait")) return refused("wait");
  const auto mark = find(event);
  if (!mark) return unknown("event");
  if (stream.handle == 0) {
    mark->wait(mark->recorded());
    return {};
  }
  const auto queue = find(stream);
  if (!queue) return unknown("stream");
  queue->push_wait(mark, mark->recorded());
  return {};
}

Status HostDevice::query(EventView event, bool& done) noexcept {
  if (fails("query")) return refused("query");
  const auto mark = find(event);
  if (!mark) return unknown("event");
  done = mark->done();
  return {};
}

Status HostDevice::synchronize(EventView event) noexcept {
  if (fails("synchronize")) return refused("synchronize");
  const auto mark = find(event);
  if (!mark) return unknown("event");
  mark->wait(mark->recorded());
  return {};
}

Status HostDevice::copy_blocks(std::span<const CopyBlock> blocks, StreamView stream) noexcept {
  if (fails("copy")) return refused("copy");
  const auto queue = find(stream);
  if (!queue) return unknown("stream");
  queue->push_copies(blocks);
  return {};
}

Status HostDevice::poison(DeviceSpan memory, StreamView stream) noexcept {
  if (fails("poison")) return refused("poison");
  if (stream.handle == 0) {
    poison_memory(memory);
    return {};
  }
  const auto queue = find(stream);
  if (!queue) return unknown("stream");
  queue->push_poison(memory);
  return {};
}

Status HostDevice::pin(HostSpan memory) noexcept {
  if (fails("pin")) {
    return Status::failure(Code::kOutOfPinnedMemory,
                           "host device: pin of " + std::to_string(memory.size()) + " bytes failed on request");
  }
  const std::lock_guard lock(mutex_);
  ++pinned_ranges_;
  return {};
}

void HostDevice::unpin(HostSpan /*memory*/) noexcept {
  const std::lock_guard lock(mutex_);
  --pinned_ranges_;
}

void HostDevice::scrub(HostSpan memory) noexcept {
  if (options_.poison) std::memset(memory.data(), kPoison, memory.size());
}

Status HostDevice::allocate(std::size_t nbytes, DeviceSpan& out) noexcept {
  if (fails("allocate")) return refused("allocate", Code::kOutOfDeviceMemory);
  TouchedMemory memory = touched_memory(nbytes, std::byte{0});
  if (memory == nullptr) return no_room(nbytes);
  try {
    out = DeviceSpan{reinterpret_cast<std::uintptr_t>(memory.get()), nbytes};
    const std::lock_guard lock(mutex_);
    allocations_.emplace(out.address, std::move(memory));
  } catch (const std::bad_alloc&) {
    return no_room(nbytes);
  }
  return {};
}

void HostDevice::deallocate(DeviceSpan memory) noexcept {
  if (options_.poison) std::memset(host_pointer(memory.address), kPoison, memory.nbytes);
  const std::lock_guard lock(mutex_);
  allocations_.erase(memory.address);
}

Status HostDevice::read_back(HostSpan target, DeviceSpan source) noexcept {
  if (fails("read_back")) return refused("read_back");
  std::memcpy(target.data(), host_pointer(source.address), target.size());
  return {};
}

Status HostDevice::measure_link(std::size_t nbytes, int repeats, std::vector<double>& seconds) {
  const TouchedMemory source = touched_memory(nbytes, std::byte{1});
  const TouchedMemory target = touched_memory(nbytes, std::byte{0});
  if (source == nullptr || target == nullptr) return no_room(nbytes);
  const CopyBlock all{reinterpret_cast<std::uintptr_t>(target.get()), 0, source.get(), 0, nbytes, 1};
  Status status = time_copies({&all, 1}, 0, repeats + 1, seconds);
  if (status.ok()) seconds.erase(seconds.begin());  // the first one is for warmth
  return status;
}

std::size_t HostDevice::live_objects() const noexcept {
  const std::lock_guard lock(mutex_);
  return queues_.size() + marks_.size() + allocations_.size() + pinned_ranges_;
}

}  // namespace streamload
