#include "device/host_queue.hpp"

#include <algorithm>

#include "core/background_thread.hpp"
#include "core/signals_blocked.hpp"
#include "core/stream_copy.hpp"

namespace streamload {
namespace {

void move_bytes(const CopyBlock& block) noexcept {
  auto* target = reinterpret_cast<std::byte*>(block.target);  // NOLINT(performance-no-int-to-ptr): a "device address"
  const std::byte* source = block.source;
  for (std::size_t row = 0; row < block.rows && block.row_bytes != 0; ++row) {
    stream_copy(target, source, block.row_bytes);
    target += block.target_pitch;
    source += block.source_pitch;
  }
}

}  // namespace

// --- marks and the link ------------------------------------------------------------------------------------------

std::uint64_t HostMark::record() noexcept {
  const std::lock_guard lock(mutex_);
  return ++recorded_;
}

std::uint64_t HostMark::recorded() const noexcept {
  const std::lock_guard lock(mutex_);
  return recorded_;
}

void HostMark::complete(std::uint64_t generation) noexcept {
  {
    const std::lock_guard lock(mutex_);
    completed_ = std::max(completed_, generation);
    completed_at_ = HostClock::now();
  }
  changed_.notify_all();
}

bool HostMark::done() const noexcept {
  const std::lock_guard lock(mutex_);
  return completed_ >= recorded_;
}

HostClock::time_point HostMark::wait(std::uint64_t generation) noexcept {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return completed_ >= generation; });
  return completed_at_;
}

HostClock::time_point HostLink::book(std::size_t nbytes, HostClock::time_point ready) noexcept {
  const auto takes = std::chrono::duration_cast<HostClock::duration>(
      std::chrono::duration<double>(static_cast<double>(nbytes) / bytes_per_second_));
  const std::lock_guard lock(mutex_);
  free_at_ = std::max(free_at_, ready) + takes;
  return free_at_;
}

void poison_memory(DeviceSpan memory) noexcept {
  constexpr int kNan = 0xFF;
  std::memset(reinterpret_cast<void*>(memory.address), kNan, memory.nbytes);  // NOLINT(performance-no-int-to-ptr)
}

// --- the queue ---------------------------------------------------------------------------------------------------

HostQueue::HostQueue(std::shared_ptr<HostLink> link, std::uint64_t seed)
    : link_(std::move(link)), delays_(seed != 0), random_(seed) {
  const SignalsBlocked blocked;
  worker_ = std::jthread([this](const std::stop_token& stop) { run(stop); });
}

HostQueue::~HostQueue() { expedite(); }  // the worker drains what is queued, then its jthread joins

template <class Add>
void HostQueue::push(Add&& add) {
  bool was_empty = false;
  {
    const std::lock_guard lock(mutex_);
    was_empty = pushed_.tasks.empty();
    add(pushed_);
  }
  if (was_empty) changed_.notify_all();  // else the worker has been told and not looked yet
}

void HostQueue::push_copies(std::span<const CopyBlock> blocks) {
  push([&](Batch& to) {
    const std::size_t first = to.blocks.size();
    to.blocks.insert(to.blocks.end(), blocks.begin(), blocks.end());
    to.tasks.emplace_back(CopyTask{first, to.blocks.size(), HostClock::now()});
  });
}

void HostQueue::push_poison(DeviceSpan memory) {
  push([&](Batch& to) { to.tasks.emplace_back(PoisonTask{memory}); });
}

void HostQueue::push_record(std::shared_ptr<HostMark> mark, std::uint64_t generation) {
  push([&](Batch& to) { to.tasks.emplace_back(MarkTask{std::move(mark), generation, true}); });
}

void HostQueue::push_wait(std::shared_ptr<HostMark> mark, std::uint64_t generation) {
  push([&](Batch& to) { to.tasks.emplace_back(MarkTask{std::move(mark), generation, false}); });
}

void HostQueue::expedite() noexcept {
  {
    const std::lock_guard lock(mutex_);
    expedited_ = true;
  }
  changed_.notify_all();
}

void HostQueue::run(const std::stop_token& stop) noexcept {
  stay_in_background("streamload-host");
  Batch batch;
  std::unique_lock lock(mutex_);
  while (changed_.wait(lock, stop, [&] { return !pushed_.tasks.empty(); }) || !pushed_.tasks.empty()) {
    std::swap(batch, pushed_);
    lock.unlock();
    run(batch);
    batch.tasks.clear();
    batch.blocks.clear();
    lock.lock();
  }
}

void HostQueue::run(const Batch& batch) noexcept {
  for (const auto& task : batch.tasks) {
    if (delays_) {
      reached_ = HostClock::now() + std::chrono::microseconds(random_() % 200);
      pause_until(reached_);
    }
    if (const auto* copies = std::get_if<CopyTask>(&task)) {
      execute(std::span(batch.blocks).subspan(copies->first, copies->last - copies->first), copies->pushed_at);
    } else if (const auto* one = std::get_if<MarkTask>(&task)) {
      if (one->completes) {
        one->mark->complete(one->generation);
      } else {
        reached_ = std::max(reached_, one->mark->wait(one->generation));
      }
    } else if (const auto* poison = std::get_if<PoisonTask>(&task)) {
      poison_memory(poison->memory);
    }
  }
}

void HostQueue::execute(std::span<const CopyBlock> blocks, HostClock::time_point pushed_at) noexcept {
  // Booked before the bytes move: the link's time passes while the processor copies, as on real hardware.
  HostClock::time_point crossed;
  if (link_->paced()) {
    std::size_t nbytes = 0;
    for (const CopyBlock& block : blocks) nbytes += block.nbytes();
    crossed = reached_ = link_->book(nbytes, std::max(reached_, pushed_at));
  }
  for (const CopyBlock& block : blocks) move_bytes(block);
  if (link_->paced()) pause_until(crossed);
}

void HostQueue::pause_until(HostClock::time_point when) noexcept {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, when, [&] { return expedited_; });
}

}  // namespace streamload
