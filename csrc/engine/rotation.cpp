#include "engine/rotation.hpp"

#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <string>
#include <system_error>
#include <utility>

#include "core/signals_blocked.hpp"

namespace streamload {
namespace {

Status invalid(std::string text) { return Status::failure(Code::kInvalid, "rotation: " + std::move(text)); }

Status misused(std::string text) { return Status::failure(Code::kMisused, "rotation: " + std::move(text)); }

bool inside(DeviceSpan part, DeviceSpan whole) noexcept {
  return part.address >= whole.address && part.nbytes <= whole.nbytes &&
         part.address - whole.address <= whole.nbytes - part.nbytes;
}

DeviceSpan extent_of(const CopyStep& copy) noexcept {
  return {copy.address, (copy.rows - 1) * copy.target_pitch + copy.row_bytes};
}

}  // namespace

Rotation::Want::~Want() {
  if (rotation_ != nullptr) rotation_->withdraw(number_);
}

Rotation::Rotation(std::shared_ptr<Device> device, std::shared_ptr<ReadPool> pool, Setup setup)
    : pool_(std::move(pool)),
      device_(std::move(device)),
      sources_(std::move(setup.sources)),
      debug_(setup.debug_seed != 0),
      breach_(setup.breach),
      order_(std::move(setup.order)),
      needed_(setup.slots.size()),
      random_(static_cast<std::minstd_rand::result_type>(setup.debug_seed)),
      rules_(setup.slots.size()) {
  std::size_t keys = 0;
  for (std::size_t i = 0; i < setup.units.size(); ++i) {
    Unit unit{std::make_shared<const Plan>(std::move(setup.units[i])), setup.slot_of[i]};
    for (const ReadStep& read : unit.plan->reads) unit.bytes_read += read.nbytes;
    unit.first_key = std::exchange(keys, keys + unit.plan->keys.size());
    units_.push_back(std::move(unit));
  }
  slots_.resize(setup.slots.size());
  for (std::size_t i = 0; i < slots_.size(); ++i) slots_[i].memory = setup.slots[i];
  stats_.units = units_.size();
  stats_.slots = slots_.size();
}

Status Rotation::check(const Setup& setup) {
  if (setup.slot_of.size() != setup.units.size()) return invalid("not one slot for each unit");
  for (std::size_t i = 0; i < setup.units.size(); ++i) {
    const std::string name = "unit " + std::to_string(i);
    if (setup.units[i].group_count != 1) return invalid(name + ": its plan is not of one group");
    if (setup.slot_of[i] >= setup.slots.size()) return invalid(name + ": no such slot");
    const DeviceSpan slot = setup.slots[setup.slot_of[i]];
    const auto out = [&](const CopyStep& copy) { return !inside(extent_of(copy), slot); };
    if (std::any_of(setup.units[i].copies.begin(), setup.units[i].copies.end(), out)) {
      return invalid(name + ": a copy goes outside its slot");
    }
  }
  std::vector<DeviceSpan> slots = setup.slots;
  std::sort(slots.begin(), slots.end(), [](DeviceSpan a, DeviceSpan b) { return a.address < b.address; });
  for (std::size_t i = 1; i < slots.size(); ++i) {
    if (slots[i].address - slots[i - 1].address < slots[i - 1].nbytes) return invalid("slots overlap");
  }
  const auto unknown = [&](std::uint32_t unit) { return unit >= setup.units.size(); };
  if (std::any_of(setup.order.begin(), setup.order.end(), unknown)) return invalid("the order names no such unit");
  return {};
}

Status Rotation::start(std::shared_ptr<Device> device, std::shared_ptr<ReadPool> pool, Setup setup,
                       std::shared_ptr<Rotation>& out) {
  if (Status status = check(setup); !status.ok()) return status;
  const auto after = setup.after;
  auto rotation = std::make_shared<Rotation>(std::move(device), std::move(pool), std::move(setup));
  if (Status status = rotation->begin(after); !status.ok()) return status;
  out = std::move(rotation);
  return {};
}

Status Rotation::begin(std::optional<StreamView> after) {
  for (Stream& stream : streams_) {
    if (Status status = Stream::make(device_, stream); !status.ok()) return status;
  }
  for (Slot& slot : slots_) {
    Event event;
    if (Status status = Event::make(device_, event); !status.ok()) return status;
    slot.filled = std::make_shared<Event>(std::move(event));
  }
  if (after) {
    if (Status status = Event::make(device_, allocated_); !status.ok()) return status;
    if (Status status = device_->record(allocated_.view(), *after); !status.ok()) return status;
    for (const Stream& stream : streams_) {
      if (Status status = device_->wait(stream.view(), allocated_.view()); !status.ok()) return status;
    }
  }
  try {
    const SignalsBlocked blocked;
    thread_ = std::jthread([this] { run(); });
  } catch (const std::system_error& error) {
    return Status::failure(Code::kDeviceFailed, std::string("cannot start a thread: ") + error.what());
  }
  return {};
}

// --- consumers -----------------------------------------------------------------------------------------------------

Rotation::Hold* Rotation::hold_of_caller() noexcept {
  const auto mine = [](const Hold& hold) { return hold.thread == std::this_thread::get_id(); };
  const auto found = std::find_if(holds_.begin(), holds_.end(), mine);
  return found == holds_.end() ? nullptr : &*found;
}

Status Rotation::want(std::uint32_t unit, Want& out) noexcept {
  if (unit >= units_.size()) return invalid("no unit " + std::to_string(unit));
  if (failed_) return tell_failure();
  const std::lock_guard lock(mutex_);
  out.unit_ = unit;
  if (const Hold* hold = hold_of_caller()) {
    if (hold->unit == unit) {
      out.rotation_ = this;
      return {};  // without a number: there is nothing to wait for
    }
    return misused("unit " + std::to_string(unit) + " is nested in unit " + std::to_string(hold->unit) +
                   ", which the same thread holds; its slot may be the one that is waited for");
  }
  const Slot& slot = slots_[units_[unit].slot];
  const bool there = holds_unit(slot, unit);
  const bool predicted = there || next_missing() == unit;
  const bool in_order = order_.size() == 0 || order_.ahead(1) == unit;
  order_.use(unit);
  out.rotation_ = this;
  out.number_ = next_want_++;
  wants_.push_back({out.number_, unit, predicted});
  if (there && slot.state == State::kLanded && in_order) return {};  // there is nothing to do until it is released
  news_ = true;
  work_.notify_all();
  return {};
}

void Rotation::withdraw(std::uint64_t number) noexcept {
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(wants_, [&](const Wanted& wanted) { return wanted.number == number; });
    news_ = true;
  }
  changed_.notify_all();  // who came later may be next
  work_.notify_all();
}

// The oldest of those who want one slot decides what it holds, so that two of them cannot take it from each other for
// ever: nobody passes by an older one that wants another unit of the slot.
bool Rotation::may_take(const Want& want, bool on_host) const noexcept {
  const Slot& slot = slots_[units_[want.unit_].slot];
  if (breaks(Breach::kOtherUnit)) return slot.state == State::kLanded;
  if (!holds_unit(slot, want.unit_)) return false;
  const bool arrived = slot.state == State::kLanded || (!on_host && slot.state == State::kIssued);
  if (!arrived && !breaks(Breach::kEarlyAcquire)) return false;
  const auto older = [&](const Wanted& other) {
    return other.number < want.number_ && other.unit != want.unit_ &&
           units_[other.unit].slot == units_[want.unit_].slot;
  };
  return std::none_of(wants_.begin(), wants_.end(), older);
}

void Rotation::take(Want& want) noexcept {
  Slot& slot = slots_[units_[want.unit_].slot];
  ++slot.holds;
  slot.used = true;
  if (Hold* hold = hold_of_caller()) {
    ++hold->count;
  } else {
    holds_.push_back({std::this_thread::get_id(), want.unit_, 1});
  }
  std::erase_if(wants_, [&](const Wanted& wanted) { return wanted.number == want.number_; });
  want.rotation_ = nullptr;
}

Status Rotation::acquire(Want& want, std::optional<StreamView> stream, Clock::duration patience, bool& ready) noexcept {
  ready = false;
  if (want.rotation_ == nullptr) return misused("acquired already");
  const bool on_host = !stream || device_->waits_on_host();
  const auto since = Clock::now();
  std::shared_ptr<Event> filled;  // shared with close()
  bool landed = false;
  Status status;
  {
    const Range range(RangeKind::kWait, want.unit_, units_[want.unit_].plan->nbytes);
    std::unique_lock lock(mutex_);
    ready = changed_.wait_for(lock, patience, [&] { return failed_ || may_take(want, on_host); });
    stats_.stall_seconds += std::chrono::duration<double>(Clock::now() - since).count();
    const std::uint32_t index = units_[want.unit_].slot;
    if (ready && !failed_ && debug_) status = rules_.acquired(index, want.unit_, on_host);
    if (ready && !failed_ && status.ok()) {
      take(want);
      const Slot& slot = slots_[index];
      landed = slot.state == State::kLanded;
      filled = slot.filled;
    }
  }
  if (!status.ok()) fail(status);
  if (failed_ && want.rotation_ != nullptr) return tell_failure();
  if (!ready) return {};
  changed_.notify_all();  // a younger one may be next
  if (on_host || landed) return {};
  status = device_->wait(*stream, filled->view());
  if (!status.ok()) {
    {
      const std::lock_guard lock(mutex_);
      static_cast<void>(end_hold(want.unit_, {}));
    }
    work_.notify_all();
  }
  return status;
}

void Rotation::drop_hold(std::uint32_t unit) noexcept {
  Hold* hold = hold_of_caller();
  if (--hold->count == 0) holds_.erase(holds_.begin() + (hold - holds_.data()));
  --slots_[units_[unit].slot].holds;
  news_ = true;
}

Status Rotation::release(std::uint32_t unit, std::optional<StreamView> stream) noexcept {
  Status status;
  bool done = false;
  {
    const std::lock_guard lock(mutex_);
    const Hold* hold = hold_of_caller();
    if ((hold == nullptr || hold->unit != unit) && !breaks(Breach::kUnheldRelease)) {
      return misused("unit " + std::to_string(unit) + " is not held by this thread");
    }
    done = !stream || device_->waits_on_host() || failed_;  // or nothing is filled any more
    if (done) status = end_hold(unit, {});
  }
  if (!done) return release_behind(unit, *stream);
  work_.notify_all();  // without the lock, which the thread would run into
  if (!status.ok()) fail(status);
  return status;
}

Status Rotation::end_hold(std::uint32_t unit, Event released) noexcept {
  const std::uint32_t index = units_[unit].slot;
  if (debug_) {
    if (Status status = rules_.released(index, unit, bool(released)); !status.ok()) return status;
  }
  if (released) slots_[index].released.push_back(std::move(released));
  drop_hold(unit);
  return {};
}

// Held until the event is recorded: until then no fill looks at the slot.
Status Rotation::release_behind(std::uint32_t unit, StreamView stream) noexcept {
  Event released;
  {
    const std::lock_guard lock(mutex_);
    if (!spare_events_.empty()) {
      released = std::move(spare_events_.back());
      spare_events_.pop_back();
    }
  }
  Status status;
  if (!released) status = Event::make(device_, released);
  if (status.ok()) status = device_->record(released.view(), stream);
  if (!status.ok()) released.reset();
  Status ended;
  {
    const std::lock_guard lock(mutex_);
    ended = end_hold(unit, std::move(released));
  }
  work_.notify_all();
  if (status.ok()) status = std::move(ended);
  if (!status.ok()) fail(status);  // nobody can tell any more when the slot is free
  return status;
}

void Rotation::begin_pass() noexcept {
  const std::lock_guard lock(mutex_);
  order_.begin_pass();
  ++stats_.passes;
  news_ = true;
  work_.notify_all();
}

Status Rotation::set_order(std::vector<std::uint32_t> order) noexcept {
  const auto unknown = [&](std::uint32_t unit) { return unit >= units_.size(); };
  if (std::any_of(order.begin(), order.end(), unknown)) return invalid("the order names no such unit");
  const std::lock_guard lock(mutex_);
  order_.replace(std::move(order));
  news_ = true;
  work_.notify_all();
  return {};
}

Status Rotation::keep_on_host(std::uint32_t unit, const std::vector<HostCopy>& copies) {
  if (unit >= units_.size()) return invalid("no unit " + std::to_string(unit));
  auto blocks = std::make_shared<HostCopies>();
  std::uint64_t nbytes = 0;
  const DeviceSpan slot = slots_[units_[unit].slot].memory;
  for (const HostCopy& copy : copies) {
    if (!inside(copy.target, slot)) return invalid("a copy from host memory goes outside its slot");
    if (copy.target.empty()) continue;
    blocks->push_back({copy.target.address, 0, copy.source, 0, copy.target.nbytes, 1});
    nbytes += copy.target.nbytes;
  }
  if (failed_) return tell_failure();
  const std::lock_guard lock(mutex_);
  units_[unit].host = std::move(blocks);
  units_[unit].host_bytes = nbytes;
  return {};
}

RotationStats Rotation::stats() const {
  const std::lock_guard lock(mutex_);
  RotationStats stats = stats_;
  stats.seconds = std::chrono::duration<double>(Clock::now() - started_).count();
  return stats;
}

// --- the end -------------------------------------------------------------------------------------------------------

void Rotation::fail(Status status) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok()) return;
    failure_ = std::move(status);
    failed_ = true;
  }
  {
    const std::lock_guard lock(ending_streams_);
    for (const Stream& stream : streams_) {
      if (stream) device_->expedite(stream.view());
    }
  }
  changed_.notify_all();
  work_.notify_all();
}

void Rotation::cancel() noexcept { fail(Status::failure(Code::kCancelled, "the rotation was cancelled")); }

void Rotation::abandon() noexcept {
  abandoned_ = true;
  cancel();
}

Status Rotation::tell_failure() const {
  while (abandoned_ && ::gettid() != ::getpid()) ::pause();
  const std::lock_guard lock(mutex_);
  return failure_;
}

bool Rotation::runs_here() const noexcept {
  std::vector<std::shared_ptr<Ticket>> tickets;
  {
    const std::lock_guard lock(mutex_);
    if (!pool_) return false;
    for (const Slot& slot : slots_) {
      if (slot.ticket) tickets.push_back(slot.ticket);
    }
  }
  return std::any_of(tickets.begin(), tickets.end(), [](const auto& ticket) { return ticket->runs_here(); });
}

void Rotation::close() noexcept {
  if (runs_here()) return cancel();
  const std::lock_guard closing(closing_);
  fail(Status::failure(Code::kClosed, "the rotation is closed"));
  if (thread_.joinable()) thread_.join();  // it has closed the tickets
  {
    const std::lock_guard lock(ending_streams_);
    for (Stream& stream : streams_) stream.reset();  // waits for copies that no event covers
  }
  std::shared_ptr<ReadPool> pool;  // ends last, outside the lock
  std::vector<Event> events;
  std::vector<std::shared_ptr<Event>> filled;
  std::unique_lock lock(mutex_);
  work_.wait(lock, [&] { return landers_ == 0; });
  for (Slot& slot : slots_) {
    std::move(slot.released.begin(), slot.released.end(), std::back_inserter(events));
    slot.released.clear();
    filled.push_back(std::move(slot.filled));
  }
  std::move(spare_events_.begin(), spare_events_.end(), std::back_inserter(events));
  spare_events_.clear();
  pool.swap(pool_);
  lock.unlock();
  allocated_.reset();
  for (const auto& source : sources_) source->retire();
}

}  // namespace streamload
