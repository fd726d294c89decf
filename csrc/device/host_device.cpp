#include "device/host_device.hpp"

#include <pthread.h>

#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <new>
#include <random>
#include <thread>
#include <variant>

namespace streamload {
namespace {

using Clock = std::chrono::steady_clock;
constexpr int kPoison = 0xA5;
// A sleeper wakes late; a link that is still busy within this slack keeps its own schedule, so that late wakes
// do not add up to a slower link than the one asked for.
constexpr auto kLinkSlack = std::chrono::milliseconds(2);

std::byte* host_pointer(std::uintptr_t address) noexcept {
  return reinterpret_cast<std::byte*>(address);  // NOLINT(performance-no-int-to-ptr): a host "device address"
}

}  // namespace

// One event: how often it was recorded and how far the records have completed.
class HostDevice::Mark {
 public:
  std::uint64_t record() noexcept {
    const std::lock_guard lock(mutex_);
    return ++recorded_;
  }
  [[nodiscard]] std::uint64_t recorded() const noexcept {
    const std::lock_guard lock(mutex_);
    return recorded_;
  }
  void complete(std::uint64_t generation) noexcept {
    {
      const std::lock_guard lock(mutex_);
      completed_ = std::max(completed_, generation);
    }
    changed_.notify_all();
  }
  [[nodiscard]] bool done() const noexcept {
    const std::lock_guard lock(mutex_);
    return completed_ >= recorded_;
  }
  void wait(std::uint64_t generation) noexcept {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return completed_ >= generation; });
  }

 private:
  mutable std::mutex mutex_;  // guards both counters
  std::condition_variable changed_;
  std::uint64_t recorded_ = 0;
  std::uint64_t completed_ = 0;
};

struct HostDevice::Link {
  std::mutex mutex;  // guards free_at
  Clock::time_point free_at{};

  // Books the link for nbytes and says when they have crossed it.
  Clock::time_point book(std::size_t nbytes, double bytes_per_second) noexcept {
    const auto takes = std::chrono::duration_cast<Clock::duration>(
        std::chrono::duration<double>(static_cast<double>(nbytes) / bytes_per_second));
    const auto now = Clock::now();
    const std::lock_guard lock(mutex);
    const auto start = now - free_at < kLinkSlack ? free_at : now;
    free_at = start + takes;
    return free_at;
  }
};

// One stream: a thread that runs copies, records and waits in the order they came.
class HostDevice::Queue {
 public:
  struct CopyTask {
    DeviceSpan target;
    ConstHostSpan source;
  };
  struct MarkTask {
    std::shared_ptr<Mark> mark;
    std::uint64_t generation;
    bool completes;  // a record completes its mark, a wait waits for it
  };
  using Task = std::variant<CopyTask, MarkTask>;

  Queue(const HostDeviceOptions& options, std::shared_ptr<Link> link)
      : options_(options),
        link_(std::move(link)),
        random_(options.seed),
        worker_([this](const std::stop_token& stop) { run(stop); }) {}

  ~Queue() { expedite(); }  // the worker drains what is queued, then its jthread joins

  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  void push(Task task) {
    {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    }
    changed_.notify_all();
  }

  void expedite() noexcept {
    {
      const std::lock_guard lock(mutex_);
      expedited_ = true;
    }
    changed_.notify_all();
  }

 private:
  void run(const std::stop_token& stop) noexcept {
    ::pthread_setname_np(::pthread_self(), "streamload-host");
    std::unique_lock lock(mutex_);
    while (changed_.wait(lock, stop, [&] { return !tasks_.empty(); }) || !tasks_.empty()) {
      const Task task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      if (options_.seed != 0) pause_until(Clock::now() + std::chrono::microseconds(random_() % 200));
      std::visit([this](const auto& one) { execute(one); }, task);
      lock.lock();
    }
  }

  void execute(const CopyTask& task) noexcept {
    const bool paced = options_.link_bytes_per_second > 0;
    // Booked before the bytes move: the link's time passes while the processor copies, as on real hardware.
    const auto crossed = paced ? link_->book(task.source.size(), options_.link_bytes_per_second) : Clock::time_point();
    std::memcpy(host_pointer(task.target.address), task.source.data(), task.source.size());
    if (paced) pause_until(crossed);
  }

  void execute(const MarkTask& task) noexcept {
    if (task.completes) {
      task.mark->complete(task.generation);
    } else {
      task.mark->wait(task.generation);
    }
  }

  void pause_until(Clock::time_point when) noexcept {
    std::unique_lock lock(mutex_);
    changed_.wait_until(lock, when, [&] { return expedited_; });
  }

  const HostDeviceOptions options_;
  const std::shared_ptr<Link> link_;
  std::minstd_rand random_;  // used by the worker only

  std::mutex mutex_;  // guards tasks_ and expedited_
  std::condition_variable_any changed_;
  std::deque<Task> tasks_;
  bool expedited_ = false;

  std::jthread worker_;  // last: it uses everything above
};

HostDevice::HostDevice(HostDeviceOptions options)
    : options_(std::move(options)),
      simulated_(options_.link_bytes_per_second > 0 || !options_.fail_step.empty() || options_.poison ||
                 options_.seed != 0),
      link_(std::make_shared<Link>()) {}

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

Status unknown(const char* what) {
  return Status::failure(Code::kInvalid, std::string("host device: no such ") + what);
}

}  // namespace

std::shared_ptr<HostDevice::Queue> HostDevice::find(StreamView stream) const noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = queues_.find(stream.handle);
  return found == queues_.end() ? nullptr : found->second;
}

std::shared_ptr<HostDevice::Mark> HostDevice::find(EventView event) const noexcept {
  const std::lock_guard lock(mutex_);
  const auto found = marks_.find(event.handle);
  return found == marks_.end() ? nullptr : found->second;
}

Status HostDevice::create_stream(StreamView& out) noexcept {
  if (fails("create_stream")) return refused("create_stream");
  try {
    auto queue = std::make_shared<Queue>(options_, link_);
    const std::lock_guard lock(mutex_);
    out = StreamView{next_handle_++};
    queues_.emplace(out.handle, std::move(queue));
  } catch (const std::exception& error) {  // no thread to be had, or no memory
    return Status::failure(Code::kDeviceFailed, std::string("host device: create_stream: ") + error.what());
  }
  return {};
}

void HostDevice::destroy_stream(StreamView stream) noexcept {
  std::shared_ptr<Queue> queue;
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

Status HostDevice::create_event(EventView& out) noexcept {
  if (fails("create_event")) return refused("create_event");
  auto mark = std::make_shared<Mark>();
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
  queue->push(Queue::MarkTask{mark, mark->record(), true});
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
  queue->push(Queue::MarkTask{mark, mark->recorded(), false});
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

Status HostDevice::copy(DeviceSpan target, ConstHostSpan source, StreamView stream) noexcept {
  if (fails("copy")) return refused("copy");
  const auto queue = find(stream);
  if (!queue) return unknown("stream");
  queue->push(Queue::CopyTask{target, source});
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
  try {
    auto memory = std::make_unique<std::byte[]>(nbytes);
    out = DeviceSpan{reinterpret_cast<std::uintptr_t>(memory.get()), nbytes};
    const std::lock_guard lock(mutex_);
    allocations_.emplace(out.address, std::move(memory));
  } catch (const std::bad_alloc&) {
    return Status::failure(Code::kOutOfDeviceMemory, "host device: no memory for " + std::to_string(nbytes) + " bytes");
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
  const std::vector<std::byte> source(nbytes, std::byte{1});
  std::vector<std::byte> target(nbytes, std::byte{0});
  StreamView stream;
  EventView event;
  if (Status status = create_stream(stream); !status.ok()) return status;
  Status status = create_event(event);
  for (int i = -1; i < repeats && status.ok(); ++i) {
    const auto start = Clock::now();
    status = copy(DeviceSpan{reinterpret_cast<std::uintptr_t>(target.data()), nbytes}, source, stream);
    if (status.ok()) status = record(event, stream);
    if (status.ok()) status = synchronize(event);
    if (i >= 0) seconds.push_back(std::chrono::duration<double>(Clock::now() - start).count());
  }
  destroy_event(event);
  destroy_stream(stream);
  return status;
}

std::size_t HostDevice::live_objects() const noexcept {
  const std::lock_guard lock(mutex_);
  return queues_.size() + marks_.size() + allocations_.size() + pinned_ranges_;
}

}  // namespace streamload
