#include "engine/read_pool.hpp"

#include <algorithm>
#include <iterator>
#include <system_error>
#include <utility>

#include "core/background_thread.hpp"
#include "core/signals_blocked.hpp"

namespace streamload {
namespace {

// Reads in flight around the page cache. 16 of 4 MiB are 64 MiB: 6 GB/s at a latency of 10 ms, which is a networked
// drive's; a local one is full with four. On a noisy drive the depth wanders upwards, and staging memory with it.
constexpr std::size_t kMostInFlight = 16;
constexpr std::uint64_t kMostDelayMicroseconds = 200;
constexpr std::uint64_t kDelaysOneIn = 4;  // as different as a system is: most steps follow at once
constexpr std::size_t kLeastShare = 2;     // buffers of a load: one is read while one is copied

}  // namespace

const Reading* ReadPool::served_here() const noexcept {
  const auto here = [](const Worker& worker) { return worker.id == std::this_thread::get_id(); };
  const std::lock_guard lock(mutex_);
  const auto found = std::find_if(workers_.begin(), workers_.end(), here);
  return found == workers_.end() ? nullptr : found->serves;
}

ReadPool::ReadPool(const ReadPoolOptions& options)
    : options_(options),
      ring_(std::make_shared<StagingRing>(options.chunk_bytes, options.staging_bytes, [this] { poke(); })),
      read_threads_(options.read_threads),
      random_(static_cast<std::minstd_rand::result_type>(options.debug_seed)) {}

void ReadPool::delay() noexcept {
  if (options_.debug_seed == 0) return;
  std::unique_lock lock(mutex_);
  const std::uint64_t microseconds = random_() % (kDelaysOneIn * kMostDelayMicroseconds);
  if (microseconds >= kMostDelayMicroseconds) return;
  ends_.wait_for(lock, std::chrono::microseconds(microseconds), [&] { return ending_; });
}

void ReadPool::close() noexcept {
  if (served_here() != nullptr) return;
  const std::lock_guard closing(closing_);
  std::vector<std::jthread> ended;  // joined outside the lock
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    for (Reading* reading : readings_) reading->stop();
    ended.swap(readers_);
    std::move(runners_.begin(), runners_.end(), std::back_inserter(ended));
    runners_.clear();
  }
  work_.notify_all();
  bodies_changed_.notify_all();
  ends_.notify_all();
  ended.clear();
  ring_->release_idle();
  const std::lock_guard lock(direct_mutex_);
  direct_now_ = nullptr;
  direct_.reset();
}

Status ReadPool::add(Reading& reading) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (ending_) return Status::failure(Code::kClosed, "the pool of reading threads is closed");
    try {
      workers_.resize(read_threads_);
      const SignalsBlocked blocked;
      while (readers_.size() < read_threads_) {
        const auto thread = static_cast<std::uint32_t>(readers_.size());
        readers_.emplace_back([this, thread] { run_reader(thread); });
        workers_[thread].id = readers_.back().get_id();
      }
    } catch (const std::system_error& error) {
      if (readers_.empty()) {
        return Status::failure(Code::kDeviceFailed, std::string("cannot start a reading thread: ") + error.what());
      }
    }
    readings_.push_back(&reading);
  }
  work_.notify_all();
  return {};
}

void ReadPool::widen(std::size_t threads) noexcept {
  const std::lock_guard lock(mutex_);
  read_threads_ = std::max(read_threads_, threads);
}

void ReadPool::remove(Reading& reading) noexcept {
  const std::lock_guard lock(mutex_);
  std::erase(readings_, &reading);
}

void ReadPool::poke() noexcept {
  {
    const std::lock_guard lock(mutex_);  // a thread that is about to wait has looked before, or looks after
  }
  work_.notify_one();
}

Status ReadPool::run(std::function<void()> body) noexcept {
  {
    const std::lock_guard lock(mutex_);
    try {
      if (bodies_.size() >= idle_bodies_) {
        const SignalsBlocked blocked;
        runners_.emplace_back([this] { run_bodies(); });
      }
    } catch (const std::system_error& error) {
      return Status::failure(Code::kDeviceFailed, std::string("cannot start a thread: ") + error.what());
    }
    bodies_.push_back(std::move(body));
  }
  bodies_changed_.notify_one();
  return {};
}

void ReadPool::run_bodies() noexcept {
  stay_in_background("streamload-land");
  std::unique_lock lock(mutex_);
  while (true) {
    ++idle_bodies_;
    bodies_changed_.wait(lock, [&] { return ending_ || !bodies_.empty(); });
    --idle_bodies_;
    if (bodies_.empty()) return;
    std::function<void()> body = std::move(bodies_.back());
    bodies_.pop_back();
    lock.unlock();
    body();
    body = {};
    lock.lock();
  }
}

std::shared_ptr<DirectReader> ReadPool::direct_reader() noexcept {
  const std::lock_guard lock(direct_mutex_);
  if (!direct_tried_ && options_.use_io_uring) {
    std::unique_ptr<DirectReader> made;
    if (DirectReader::make(kMostInFlight, made).ok()) direct_ = std::move(made);
    direct_now_ = direct_.get();
  }
  direct_tried_ = true;
  if (direct_ && direct_->broken()) return nullptr;
  return direct_;
}

void ReadPool::run_reader(std::uint32_t thread) noexcept {
  stay_in_background("streamload-read");
  while (true) {
    Claim claim;
    {
      std::unique_lock lock(mutex_);
      work_.wait(lock, [&] { return ending_ || pick(claim); });
      if (claim.reading == nullptr) return;
      workers_[thread].serves = claim.reading;
    }
    work_.notify_one();  // there may be more than one read to be had
    serve(claim, thread);
    const std::lock_guard lock(mutex_);
    workers_[thread].serves = nullptr;
  }
}

// Claims the next read of the next load in turn that can go on. Changes nothing where there is none.
bool ReadPool::pick(Claim& claim) noexcept {
  const std::size_t count = readings_.size();
  if (count == 0) return false;
  // Those that failed or have read everything, and hold nothing, take no share.
  const auto shares = [](Reading* reading) { return reading->needs().read || *reading->borrowed() > 0; };
  const auto sharing = static_cast<std::size_t>(std::count_if(readings_.begin(), readings_.end(), shares));
  const std::size_t most = ring_->most();
  const std::size_t left = std::min(kLeastShare, most / 8);  // for a load that comes later
  const std::size_t share = std::max(kLeastShare, (most - left) / std::max<std::size_t>(sharing, 1));
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t index = (turn_ + i) % count;
    if (offer(*readings_[index], share, claim)) {
      turn_ = (index + 1) % count;
      return true;
    }
  }
  return false;
}

bool ReadPool::offer(Reading& reading, std::size_t share, Claim& claim) noexcept {
  const Reading::Needs needs = reading.needs();
  if (!needs.read) return false;
  const DirectReader* direct = direct_now_;
  if (needs.direct && direct != nullptr && !direct->broken() && !direct->has_room()) return false;
  claim.wants_buffer = needs.buffer;
  if (claim.wants_buffer) {
    const std::size_t borrowed = *reading.borrowed();
    if (borrowed >= share) return false;
    claim.answer = ring_->try_lend(borrowed < kLeastShare, claim.buffer);
    if (claim.answer == StagingRing::Answer::kNone) return false;
  }
  if (reading.claim(claim.read)) {
    claim.reading = &reading;
    return true;
  }
  // Its load has failed in between. Put back rather than dropped: whoever is told of a free buffer asks for our lock.
  if (claim.buffer) ring_->put_back(claim.buffer);
  if (claim.wants_buffer && claim.answer == StagingRing::Answer::kGrow) ring_->give_up_growth();
  return false;
}

void ReadPool::serve(Claim& claim, std::uint32_t thread) noexcept {
  Status status;
  if (claim.wants_buffer) {
    const auto& device = claim.reading->device();
    if (claim.answer == StagingRing::Answer::kGrow) status = ring_->grow(device->numa_node(), claim.buffer);
    if (status.ok() && claim.buffer) {
      status = device->enter_thread();
      if (status.ok()) ring_->prepare(claim.buffer, device, claim.reading->borrowed());
    }
  }
  delay();
  if (status.ok()) {
    claim.reading->serve(claim.read, thread, std::move(claim.buffer));
  } else {
    claim.buffer = StagingRing::Buffer();  // first: after refuse() the load may be gone
    claim.reading->refuse(claim.read, std::move(status));
  }
}

}  // namespace streamload
