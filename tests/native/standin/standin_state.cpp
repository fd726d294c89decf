#include "standin/standin_state.hpp"

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <sstream>

namespace standin {
namespace {

constexpr std::uintptr_t kFirstContext = 0xC0DE0001;
constexpr int kFreshVersion = 13000;

bool overlap(const std::byte* a, std::size_t a_nbytes, const std::byte* b, std::size_t b_nbytes) {
  return a < b + b_nbytes && b < a + a_nbytes;
}

// Whether a range meets one of `rows` rows.
bool meets(const std::byte* first, std::size_t pitch, const streamload::CopyBlock& copy, const std::byte* address,
           std::size_t nbytes) {
  for (std::size_t row = 0; row < copy.rows; ++row) {
    if (overlap(first + row * pitch, copy.row_bytes, address, nbytes)) return true;
  }
  return false;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

void FreeBytes::operator()(std::byte* memory) const noexcept { std::free(memory); }

State& State::get() {
  // Never destroyed: streams that a test forgot would outlive it.
  static State& state = *std::make_unique<State>().release();
  return state;
}

State::State() : driver_version(kFreshVersion), device_count(kDevices) {}

// --- checks ------------------------------------------------------------------------------------------------------

void State::violation(const std::string& text) { violations.push_back(text); }

CuResult State::planned(const std::string& function) {
  const auto found = failures.find(function);
  if (found == failures.end()) return CuResult::kSuccess;
  if (found->second.after-- > 0) return CuResult::kSuccess;
  const CuResult result = found->second.result;
  failures.erase(found);
  return result;
}

CuResult State::begin(const char* function, Kind kind) {
  ++calls[function];
  if (shut_down) return CuResult::kDeinitialized;
  const CuResult failure = planned(function);
  if (kind == Kind::kAlways || kind == Kind::kPlain) {
    if (kind == Kind::kPlain && !initialized) return CuResult::kNotInitialized;
    return failure;
  }
  if (!initialized) return CuResult::kNotInitialized;
  if (stack().empty() || stack().back() == CuContext{}) {
    violation(std::string(function) + " without a current context");
    return CuResult::kInvalidContext;
  }
  const Context& context = contexts.at(static_cast<std::size_t>(current_device()));
  if (context.retained == 0) {
    violation(std::string(function) + " in a context that was released");
    return CuResult::kContextIsDestroyed;
  }
  if (kind == Kind::kContext && failure == CuResult::kSuccess) return context.broken;
  return failure;
}

std::vector<CuContext>& State::stack() {
  thread_local std::vector<CuContext> contexts_of_thread;
  return contexts_of_thread;
}

CuContext State::context_of(int device) { return CuContext{kFirstContext + static_cast<std::uintptr_t>(device)}; }

int State::current_device() const {
  if (stack().empty()) return -1;
  for (int device = 0; device < kDevices; ++device) {
    if (stack().back() == context_of(device)) return device;
  }
  return -1;
}

Allocation* State::find_allocation(const std::byte* address, std::size_t nbytes) {
  auto after = allocations.upper_bound(address);
  if (after == allocations.begin()) return nullptr;
  --after;
  const auto& [base, allocation] = *after;
  return address + nbytes <= base + allocation.nbytes ? &after->second : nullptr;
}

Pinning State::pinning(int device, const std::byte* address, std::size_t nbytes) const {
  for (const auto& [base, registration] : registrations) {
    if (registration.device >= 0 && registration.device != device) continue;
    if (address >= base && address + nbytes <= base + registration.nbytes) return Pinning::kWhole;
    if (overlap(base, registration.nbytes, address, nbytes)) return Pinning::kPart;
  }
  return Pinning::kNone;
}

bool State::in_flight(const std::byte* address, std::size_t nbytes) const {
  const auto busy = [&](const Stream& stream) {
    return std::ranges::any_of(stream.queue, [&](const Operation& operation) {
      const streamload::CopyBlock& copy = operation.copy;
      if (copy.nbytes() == 0) return false;
      return meets(host(CuDevicePtr{copy.target}), copy.target_pitch, copy, address, nbytes) ||
             meets(copy.source, copy.source_pitch, copy, address, nbytes);
    });
  };
  return std::ranges::any_of(streams, [&](const auto& row) { return busy(*row.second); }) ||
         std::ranges::any_of(default_streams, [&](const auto& row) { return busy(*row.second); }) ||
         std::ranges::any_of(retired, [&](const auto& stream) { return busy(*stream); });
}

std::uint64_t State::operations_in_flight() const {
  std::uint64_t total = 0;
  for (const auto& row : streams) total += row.second->queue.size();
  for (const auto& row : default_streams) total += row.second->queue.size();
  for (const auto& stream : retired) total += stream->queue.size();
  return total;
}

std::uint64_t State::live(int device, std::string* text) const {
  std::ostringstream lines;
  std::uint64_t total = 0;
  const auto add = [&](int owner, const char* kind, auto handle, std::uint64_t nbytes) {
    if (device >= 0 && owner != device) return;
    ++total;
    lines << kind << " 0x" << std::hex << handle << std::dec;
    if (nbytes != 0) lines << " of " << nbytes << " bytes";
    lines << "\n";
  };
  const auto number = [](const std::byte* address) { return reinterpret_cast<std::uintptr_t>(address); };
  for (const auto& row : streams) add(row.second->device, "stream", static_cast<std::uintptr_t>(row.first), 0);
  for (const auto& row : events) add(row.second.device, "event", static_cast<std::uintptr_t>(row.first), 0);
  for (const auto& row : allocations) add(row.second.device, "allocation", number(row.first), row.second.nbytes);
  for (const auto& row : registrations) add(-1, "registration", number(row.first), row.second.nbytes);
  for (int i = 0; i < kDevices; ++i) {
    for (std::uint64_t n = 0; n < contexts.at(static_cast<std::size_t>(i)).retained; ++n) add(-1, "context", i, 0);
  }
  if (text != nullptr) *text = lines.str();
  return total;
}

// --- streams and their threads -----------------------------------------------------------------------------------

std::shared_ptr<Stream> State::start_stream(int device) {
  auto stream = std::make_shared<Stream>();
  stream->device = device;
  stream->worker = std::thread([this, stream] { run(stream); });
  return stream;
}

CuStream State::create_stream(int device) {
  const CuStream handle{next_handle_ += 0x10};
  streams[handle] = start_stream(device);
  return handle;
}

std::shared_ptr<Stream> State::find_stream(const char* function, CuStream handle) {
  const auto number = static_cast<std::uintptr_t>(handle);
  if (number <= 2) {  // 0 and 1: the legacy stream of the current context; 2: this thread's own
    const auto key = std::pair(current_device(), number == 2 ? std::this_thread::get_id() : std::thread::id{});
    auto& stream = default_streams[key];
    if (stream == nullptr) stream = start_stream(key.first);
    return stream;
  }
  const auto found = streams.find(handle);
  if (found != streams.end()) return found->second;
  violation(std::string(function) + " with a stream that does not exist");
  return nullptr;
}

CuEvent State::create_event(int device, unsigned flags) {
  const CuEvent handle{next_handle_ += 0x10};
  events[handle] = Event{device, flags, nullptr};
  return handle;
}

Event* State::find_event(const char* function, CuEvent handle) {
  const auto found = events.find(handle);
  if (found != events.end()) return &found->second;
  violation(std::string(function) + " with an event that does not exist");
  return nullptr;
}

void State::enqueue(Stream& stream, Operation operation) {
  stream.queue.push_back(std::move(operation));
  changed.notify_all();
}

void State::run(const std::shared_ptr<Stream>& stream) {
  std::unique_lock lock(mutex);
  for (;;) {
    changed.wait(lock, [&] { return stream->closing || !stream->queue.empty(); });
    if (stream->queue.empty()) return;
    const Operation& operation = stream->queue.front();  // stays where it is while others are added
    if (operation.waits_for) changed.wait(lock, [&] { return operation.waits_for->done; });
    if (operation.copy.nbytes() != 0) run_copy(lock, *stream, operation.copy);
    if (operation.sets) *operation.sets = Mark{true, now()};
    stream->queue.pop_front();
    changed.notify_all();
  }
}

void State::run_copy(std::unique_lock<std::mutex>& lock, Stream& stream, const streamload::CopyBlock& copy) {
  Context& context = contexts.at(static_cast<std::size_t>(stream.device));
  changed.wait(lock, [&] { return copies_allowed > 0; });
  if (copies_allowed != kUnlimited) --copies_allowed;
  const CuResult failure = planned("copy");
  if (failure != CuResult::kSuccess) context.broken = failure;
  if (context.broken != CuResult::kSuccess) return;  // nothing runs in a broken context, but its marks are set
  lock.unlock();
  for (std::size_t row = 0; row < copy.rows; ++row) {
    std::memcpy(host(CuDevicePtr{copy.target}) + row * copy.target_pitch, copy.source + row * copy.source_pitch,
                copy.row_bytes);
  }
  lock.lock();
  ++counters.copies_done;
  counters.bytes_copied += copy.nbytes();
}

void State::close_stream(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Stream>& stream) {
  stream->closing = true;
  changed.notify_all();
  if (!stream->queue.empty()) {
    retired.push_back(stream);
    return;
  }
  lock.unlock();
  stream->worker.join();
  lock.lock();
}

void State::close_default_streams(std::unique_lock<std::mutex>& lock, int device) {
  std::vector<std::shared_ptr<Stream>> closing;
  for (auto row = default_streams.begin(); row != default_streams.end();) {
    if (row->first.first == device) closing.push_back(row->second);
    row = row->first.first == device ? default_streams.erase(row) : std::next(row);
  }
  for (const auto& stream : closing) close_stream(lock, stream);
}

void State::reset(std::unique_lock<std::mutex>& lock) {
  copies_allowed = kUnlimited;
  failures.clear();
  std::vector<std::shared_ptr<Stream>> all = std::move(retired);
  for (const auto& row : streams) all.push_back(row.second);
  for (const auto& row : default_streams) all.push_back(row.second);
  retired.clear();
  streams.clear();
  default_streams.clear();
  for (const auto& stream : all) stream->closing = true;
  changed.notify_all();
  lock.unlock();
  for (const auto& stream : all) stream->worker.join();
  lock.lock();
  events.clear();
  allocations.clear();
  lost.clear();
  registrations.clear();
  contexts = {};
  stack().clear();
  initialized = false;
  shut_down = false;
  driver_version = kFreshVersion;
  device_count = kDevices;
  hidden.clear();
  calls.clear();
  violations.clear();
  counters = {};
}

}  // namespace standin
