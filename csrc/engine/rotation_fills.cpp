// The thread of a rotation: which fill comes next, and how it is started and followed.
#include <algorithm>
#include <iterator>
#include <utility>

#include "core/background_thread.hpp"
#include "engine/rotation.hpp"

namespace streamload {
namespace {

// Fills from host memory under way at once: one is copied, the next stands behind it, so that the link never idles
// and whatever is demanded meanwhile waits for little.
constexpr std::size_t kMostHostFills = 2;

}  // namespace

void Rotation::run() noexcept {
  stay_in_background("streamload-turn");
  name_groups(static_cast<std::uint32_t>(units_.size()));
  if (Status status = device_->enter_thread(); !status.ok()) fail(std::move(status));
  std::unique_lock lock(mutex_);
  while (!failed_) {
    news_ = false;
    reap(lock);
    Task task;
    if (failed_) break;
    if (!pick(task)) {
      work_.wait(lock, [&] { return news_ || failed_; });
      continue;
    }
    perform(task, lock);
  }
  std::vector<std::shared_ptr<Ticket>> tickets;
  for (Slot& slot : slots_) {
    if (slot.ticket) tickets.push_back(slot.ticket);
  }
  lock.unlock();
  for (const auto& ticket : tickets) ticket->cancel();
  for (const auto& ticket : tickets) ticket->close();
  lock.lock();
  for (Slot& slot : slots_) slot.ticket.reset();
  lock.unlock();  // the tickets end outside it
}

void Rotation::perform(const Task& task, std::unique_lock<std::mutex>& lock) noexcept {
  std::shared_ptr<Ticket> paused;
  std::shared_ptr<Ticket> resumed;
  std::optional<Fill> started;
  Status broken;
  if (task.pauses) {
    paused = slots_[*task.pauses].ticket;
    slots_[*task.pauses].paused = true;
    reading_.reset();
  }
  if (task.resumes) {
    Slot& slot = slots_[task.slot];
    slot.paused = false;
    if (!slot.claimed) reading_ = task.slot;
    resumed = slot.ticket;
  } else {
    if (debug_) broken = check_fill(task);
    if (broken.ok()) started = claim_slot(task);
  }
  lock.unlock();
  if (!broken.ok()) fail(std::move(broken));
  if (paused) paused->pause(true);
  if (resumed) resumed->pause(false);
  if (started) {
    delay();
    if (Status status = fill(std::move(*started)); !status.ok()) fail(std::move(status));
  }
  lock.lock();
}

// Lets go of tickets that are done, and finds out what the others failed with.
void Rotation::reap(std::unique_lock<std::mutex>& lock) noexcept {
  for (std::size_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (!slot.ticket || (slot.state != State::kLanded && !slot.failed)) continue;
    std::shared_ptr<Ticket> ticket = slot.ticket;  // stays in its slot until it is closed, for runs_here()
    const std::size_t first_key = units_[slot.unit].first_key;
    lock.unlock();
    ticket->close();
    if (Status status = ticket->status(); !status.ok()) {
      status.key += first_key;
      fail(std::move(status));
    }
    lock.lock();
    slot.ticket.reset();
    lock.unlock();
    ticket.reset();
    lock.lock();
  }
}

// --- which fill ----------------------------------------------------------------------------------------------------

bool Rotation::holds_unit(const Slot& slot, std::uint32_t unit) const noexcept {
  return slot.state != State::kEmpty && slot.unit == unit;
}

bool Rotation::is_wanted(std::uint32_t slot) const noexcept {
  return std::any_of(wants_.begin(), wants_.end(),
                     [&](const Wanted& wanted) { return units_[wanted.unit].slot == slot; });
}

bool Rotation::is_free(const Slot& slot) const noexcept {
  // A ticket that has landed is reaped first: it ends outside the lock.
  const bool landed = slot.state == State::kLanded && !slot.ticket;
  return (slot.state == State::kEmpty || landed || breaks(Breach::kUnlandedSlot)) &&
         (slot.holds == 0 || breaks(Breach::kHeldSlot));
}

bool Rotation::pick(Task& task) noexcept {
  if (pick_wanted(task)) return true;
  if (reading_) return false;  // two fills that share the readers are both late
  for (std::uint32_t i = 0; i < slots_.size(); ++i) {
    if (!slots_[i].paused) continue;
    task = Task{i, slots_[i].unit, true, false, {}};
    return true;
  }
  return pick_next(task);
}

// What the one who waits longest needs, if it can be begun: before everything that was only predicted.
bool Rotation::pick_wanted(Task& task) noexcept {
  for (auto wanted = wants_.begin(); wanted != wants_.end(); ++wanted) {
    const std::uint32_t index = units_[wanted->unit].slot;
    const auto same_slot = [&](const Wanted& other) { return units_[other.unit].slot == index; };
    if (std::any_of(wants_.begin(), wanted, same_slot)) continue;  // the oldest decides
    const Slot& slot = slots_[index];
    const bool resumes = holds_unit(slot, wanted->unit) && slot.paused;
    if (holds_unit(slot, wanted->unit) && !resumes) continue;
    if (!resumes && !is_free(slot)) continue;
    task = Task{index, wanted->unit, resumes, true, {}};
    if (!reading_ || (!resumes && units_[wanted->unit].host)) return true;
    if (is_wanted(*reading_)) continue;       // it will have claimed its reads soon
    if (!slots_[*reading_].ticket) continue;  // being started, by this very thread
    task.pauses = reading_;
    return true;
  }
  return false;
}

// The first unit ahead of the consumer that is neither there nor on its way.
std::optional<std::uint32_t> Rotation::next_missing() noexcept {
  needed_.assign(slots_.size(), false);
  for (std::size_t places = 1; places <= order_.size(); ++places) {
    const std::uint32_t unit = order_.ahead(places);
    const std::uint32_t slot = units_[unit].slot;
    if (!holds_unit(slots_[slot], unit)) return unit;
    needed_[slot] = true;
  }
  return {};
}

bool Rotation::pick_next(Task& task) noexcept {
  const auto unit = next_missing();
  if (!unit) return false;
  const std::uint32_t index = units_[*unit].slot;
  const Slot& slot = slots_[index];
  if (!is_free(slot)) return false;
  if (needed_[index] && !breaks(Breach::kNeededUnit)) return false;
  if (is_wanted(index) && !breaks(Breach::kWantedUnit)) return false;
  if (units_[*unit].host) {
    if (host_fills_ >= kMostHostFills) return false;
    // Its copies are all enqueued at once, so they must find those of the fill before them enqueued.
    if (latest_ && slots_[*latest_].state == State::kFilling) return false;
  }
  task = Task{index, *unit, false, false, {}};
  return true;
}

// --- how it is done ------------------------------------------------------------------------------------------------

// What the thread decided by the state of the slots, seen from the other end.
Status Rotation::check_fill(const Task& task) noexcept {
  const Slot& slot = slots_[task.slot];
  const auto asks = [](std::uint32_t unit) { return [unit](const Wanted& wanted) { return wanted.unit == unit; }; };
  const auto of_task = std::find_if(wants_.begin(), wants_.end(), asks(task.unit));
  const auto of_other = std::find_if(wants_.begin(), wants_.end(), asks(slot.unit));
  const bool wanted = of_other != wants_.end() && of_other < of_task;
  const bool needed = !task.demanded && order_.places_to(slot.unit) < order_.places_to(task.unit);
  return rules_.fill_begins(task.slot, task.unit, slot.generation + 1, wanted, needed);
}

Rotation::Fill Rotation::claim_slot(const Task& task) noexcept {
  Slot& slot = slots_[task.slot];
  const Unit& unit = units_[task.unit];
  Fill fill{task.slot, task.unit, ++slot.generation, task.demanded, {}, std::move(slot.released), {}, unit.host};
  slot.released.clear();
  fill.stream = streams_[std::exchange(next_stream_, next_stream_ ^ 1)].view();
  if (!task.demanded && latest_ && *latest_ != task.slot && slots_[*latest_].state == State::kIssued) {
    fill.previous = slots_[*latest_].filled;
  }
  if (slot.state == State::kLanded && !slot.used) ++stats_.wasted_fills;
  const auto asked = [&](const Wanted& wanted) { return wanted.unit == task.unit; };
  const auto first = std::find_if(wants_.begin(), wants_.end(), asked);
  if (first != wants_.end() && !first->predicted) ++stats_.demanded_fills;
  slot.state = State::kFilling;
  slot.unit = task.unit;
  slot.used = slot.claimed = slot.failed = slot.paused = false;
  slot.from_host = unit.host != nullptr;
  slot.nbytes = slot.from_host ? unit.host_bytes : unit.plan->nbytes;
  latest_ = task.slot;
  if (slot.from_host) {
    ++host_fills_;
  } else {
    reading_ = task.slot;
  }
  return fill;
}

Status Rotation::fill(Fill fill) noexcept {
  const bool in_place = device_->fills_in_place();
  if (Status status = wait_for_releases(fill); !status.ok()) return status;
  if (debug_) {
    const DeviceSpan memory = slots_[fill.slot].memory;
    if (Status status = device_->poison(memory, in_place ? StreamView{} : fill.stream); !status.ok()) return status;
  }
  if (fill.host) return copy_from_host(fill);
  const auto& plan = units_[fill.unit].plan;
  const std::uint32_t generation = breaks(Breach::kStaleNews) ? fill.generation + 1 : fill.generation;
  const auto tell = [this, slot = fill.slot, generation](Ticket::Stage stage) { told(slot, generation, stage); };
  if (plan->reads.empty()) {  // nothing but empty tensors
    tell(Ticket::Stage::kClaimed);
    tell(Ticket::Stage::kLanded);
    return {};
  }
  std::shared_ptr<Ticket> ticket;
  Ticket::Attachment attachment{fill.stream, slots_[fill.slot].filled, tell, fill.unit};
  Status status = Ticket::start(device_, pool_, plan, sources_, {}, ticket, std::move(attachment));
  if (!status.ok()) return status;
  const std::lock_guard lock(mutex_);
  slots_[fill.slot].ticket = std::move(ticket);
  news_ = true;  // it may be done by now
  return {};
}

// Makes the copies of a fill wait for all who used its slot before, each of whom has recorded that already.
Status Rotation::wait_for_releases(Fill& fill) noexcept {
  Status status;
  std::size_t waits = fill.released.size();
  if (waits > 0 && breaks(Breach::kForgottenRelease)) --waits;
  for (std::size_t i = 0; i < waits && status.ok(); ++i) {
    status = device_->wait(fill.stream, fill.released[i].view());
  }
  if (status.ok() && fill.previous) status = device_->wait(fill.stream, fill.previous->view());
  // An event may be recorded anew as soon as the wait for it is enqueued.
  const std::lock_guard lock(mutex_);
  std::move(fill.released.begin(), fill.released.end(), std::back_inserter(spare_events_));
  if (debug_ && status.ok()) status = rules_.copies_begin(fill.slot, waits);
  return status;
}

Status Rotation::copy_from_host(const Fill& fill) noexcept {
  constexpr std::size_t kMost = 256;
  Status status;
  {
    const Range range(RangeKind::kCopy, fill.unit, units_[fill.unit].plan->nbytes);
    for (std::size_t first = 0; first < fill.host->size() && status.ok(); first += kMost) {
      const std::span blocks(*fill.host);
      status = device_->copy_blocks(blocks.subspan(first, std::min(kMost, blocks.size() - first)), fill.stream);
    }
    if (status.ok()) status = device_->record(slots_[fill.slot].filled->view(), fill.stream);
  }
  if (!status.ok()) return status;
  told(fill.slot, fill.generation, Ticket::Stage::kIssued);
  {
    const std::lock_guard lock(mutex_);
    ++landers_;
  }
  status = pool_->run([this, slot = fill.slot, unit = fill.unit, generation = fill.generation] {
    land_from_host(slot, unit, generation);
  });
  if (!status.ok()) {
    const std::lock_guard lock(mutex_);
    --landers_;
  }
  return status;
}

void Rotation::land_from_host(std::uint32_t slot, std::uint32_t unit, std::uint32_t generation) noexcept {
  Status status = device_->enter_thread();
  if (status.ok()) {
    const Range range(RangeKind::kLand, unit, units_[unit].plan->nbytes);
    status = device_->synchronize(slots_[slot].filled->view());
  }
  if (status.ok()) {
    told(slot, generation, Ticket::Stage::kLanded);
  } else {
    fail(std::move(status));
  }
  const std::lock_guard lock(mutex_);
  --landers_;
  work_.notify_all();  // under the lock: who waits for it destroys the rotation next
}

void Rotation::told(std::uint32_t index, std::uint32_t generation, Ticket::Stage stage) noexcept {
  const bool arrives = stage == Ticket::Stage::kIssued || stage == Ticket::Stage::kLanded;
  if (arrives) delay();
  Status broken;
  {
    const std::lock_guard lock(mutex_);
    if (debug_ && stage == Ticket::Stage::kIssued) broken = rules_.issued(index, generation);
    if (debug_ && stage == Ticket::Stage::kLanded) broken = rules_.landed(index, generation);
    if (slots_[index].generation == generation && broken.ok()) mark(index, stage);
    news_ = true;
  }
  if (!broken.ok()) fail(std::move(broken));
  if (arrives) changed_.notify_all();
  work_.notify_all();
}

void Rotation::mark(std::uint32_t index, Ticket::Stage stage) noexcept {
  Slot& slot = slots_[index];
  switch (stage) {
    case Ticket::Stage::kClaimed:
      slot.claimed = true;  // and may be paused still: a read that is given back has to be claimed again
      if (reading_ == index) reading_.reset();
      break;
    case Ticket::Stage::kIssued:
      if (slot.state == State::kFilling) slot.state = State::kIssued;
      break;
    case Ticket::Stage::kLanded:
      slot.state = State::kLanded;
      slot.paused = false;
      ++stats_.fills;
      stats_.bytes_streamed += slot.nbytes;
      stats_.bytes_from_host += slot.from_host ? slot.nbytes : 0;
      stats_.bytes_read += slot.from_host ? 0 : units_[slot.unit].bytes_read;
      if (slot.from_host) --host_fills_;
      break;
    case Ticket::Stage::kFailed: slot.failed = true; break;
  }
}

void Rotation::delay() noexcept {
  if (!debug_) return;
  constexpr std::uint64_t kMostMicroseconds = 200;
  constexpr std::uint64_t kOneIn = 4;  // as different as a system is: most steps follow at once
  std::unique_lock lock(mutex_);
  const std::uint64_t microseconds = random_() % (kOneIn * kMostMicroseconds);
  if (microseconds >= kMostMicroseconds) return;
  work_.wait_for(lock, std::chrono::microseconds(microseconds), [&] { return failed_.load(); });
}

}  // namespace streamload
