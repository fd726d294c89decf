// What those do who wait for a ticket, and who say what they wait for.
#include <algorithm>
#include <utility>

#include "engine/ticket.hpp"

namespace streamload {

Status Ticket::wait_group(std::uint32_t index, std::optional<StreamView> stream, Clock::duration patience, bool& ready,
                          bool& resident) noexcept {
  ready = resident = false;
  if (index >= plan_.group_count) return Status::failure(Code::kInvalid, "no such group");
  Group& group = groups_[index];
  if (failed_) return tell_failure();
  ready = resident = group.resident;
  if (resident) return {};
  const bool on_host = !stream || device_->waits_on_host();
  const auto since = Clock::now();
  std::shared_ptr<Event> event;
  {
    const Range range(RangeKind::kWait, index, ranges_wanted() ? read_bytes(group) : 0);
    std::unique_lock lock(mutex_);
    ready =
        changed_.wait_for(lock, patience, [&] { return failed_ || (on_host ? group.resident.load() : group.issued); });
    stall_nanoseconds_ += std::chrono::nanoseconds(Clock::now() - since).count();
    resident = group.resident;
    if (!failed_ && (!ready || resident || on_host)) return {};
    event = group.event;
  }
  if (failed_) return tell_failure();
  return device_->wait(*stream, event->view());
}

Status Ticket::wait_all(Clock::duration patience, bool& ready) noexcept {
  {
    std::unique_lock lock(mutex_);
    ready = changed_.wait_for(lock, patience, [&] { return done_.load(); });
  }
  return failed_ ? tell_failure() : Status{};
}

void Ticket::promote(std::uint32_t index) noexcept {
  const std::lock_guard lock(mutex_);
  if (index >= plan_.group_count || groups_[index].next_read == groups_[index].last_read) return;
  std::erase(promoted_, index);
  promoted_.push_front(index);
}

void Ticket::pause(bool paused) noexcept {
  std::shared_ptr<ReadPool> pool;
  {
    const std::lock_guard lock(mutex_);
    paused_ = paused;
    pool = pool_;
  }
  if (pool && !paused) pool->poke();
}

bool Ticket::resident(std::uint32_t index) const noexcept {
  return !failed_ && index < plan_.group_count && groups_[index].resident;
}

}  // namespace streamload
