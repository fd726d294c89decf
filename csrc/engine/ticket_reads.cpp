// How a ticket's reads are done: on the pool's threads, or by its reader of direct reads; ticket_fetches.cpp: by their
// source.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "core/host_block.hpp"
#include "core/thread_cpu.hpp"
#include "engine/ticket.hpp"

namespace streamload {
namespace {

// A direct read below this is read into memory beside its place, and copied from there.
constexpr std::size_t kLeastDirectInPlace = 64 << 10;

}  // namespace

Reading::Needs Ticket::needs() noexcept {
  const std::lock_guard lock(mutex_);
  Needs needs = expected_;
  needs.read = unclaimed_ > 0 && !done_ && !paused_ && !waits_for_room();
  return needs;
}

void Ticket::expect(bool buffer, const Choice& choice) noexcept {
  const std::lock_guard lock(mutex_);
  expected_.buffer = buffer;
  expected_.direct = choice.route == Route::kDirect;
}

bool Ticket::claim(std::size_t& read) noexcept {
  bool last = false;
  {
    const std::lock_guard lock(mutex_);
    if (!take_next(read)) return false;
    last = unclaimed_ == 0 && !std::exchange(all_claimed_, true);
  }
  if (last) tell(Stage::kClaimed);  // the claimed read keeps the ticket
  return true;
}

bool Ticket::take_next(std::size_t& read) noexcept {
  if (unclaimed_ == 0 || done_ || paused_) return false;
  const auto take = [&](std::uint32_t index) {
    Group& group = groups_[index];
    if (group.next_read == group.last_read) return false;
    read = group.next_read++;
    return true;
  };
  --unclaimed_;
  ++under_way_;
  if (!returned_.empty()) {
    read = returned_.front();
    returned_.pop_front();
    return true;
  }
  for (; !promoted_.empty(); promoted_.pop_front()) {
    if (take(promoted_.front())) return true;
  }
  while (!take(cursor_)) ++cursor_;  // unclaimed_ says that there is one
  return true;
}

// The read that take_next would take.
std::size_t Ticket::peek_next() const noexcept {
  if (!returned_.empty()) return returned_.front();
  for (const std::uint32_t index : promoted_) {
    if (const Group& group = groups_[index]; group.next_read != group.last_read) return group.next_read;
  }
  std::uint32_t index = cursor_;
  while (groups_[index].next_read == groups_[index].last_read) ++index;
  return groups_[index].next_read;
}

// Gives a claimed read back to be claimed again, before all others.
void Ticket::return_read(std::size_t read) noexcept {
  {
    const std::lock_guard lock(mutex_);
    ++unclaimed_;
    returned_.push_back(read);
  }
  pool_->poke();
}

void Ticket::settle(double cpu_seconds) noexcept {
  std::unique_lock lock(mutex_);
  stats_.read_cpu_seconds += cpu_seconds;
  --under_way_;
  if (under_way_ == 0 && failed_ && !landings_.empty() && !lander_runs_) {
    for (; !landings_.empty(); landings_.pop_front()) stranded_.push_back(std::move(landings_.front()));
  }
  if (under_way_ == 0 && !stranded_.empty() && !lander_runs_) {
    lander_runs_ = true;  // in its place: nobody closes the ticket meanwhile
    lock.unlock();
    drain();
    lock.lock();
    lander_runs_ = false;
  }
  // Nobody reads any more. Sources that Python made may hold on to this load, so they are not kept until it is closed;
  // they end when everything else here has.
  std::vector<std::shared_ptr<Source>> sources;
  if (under_way_ == 0 && done_) sources.swap(sources_);
  if (under_way_ == 0) worked_.notify_all();  // under the lock: who waits for it destroys the ticket next
  lock.unlock();
}

// Gives the buffers of a failed load back at once, since other loads wait for them. Nothing more is enqueued: stranded
// copies mean that the load has failed, and no read is under way.
void Ticket::drain() noexcept {
  end_stream(true);
  std::vector<Landing> stranded;  // ends outside the lock
  const std::lock_guard lock(mutex_);
  stranded.swap(stranded_);
}

void Ticket::refuse(std::size_t read, Status status) noexcept {
  static_cast<void>(read);
  fail(std::move(status));
  settle(0);
}

void Ticket::serve(std::size_t read, std::uint32_t thread, StagingRing::Buffer buffer) noexcept {
  const double began = thread_cpu_seconds();
  traces_[read].thread = thread;
  Outcome outcome = Outcome::kDone;
  Status status = device_->enter_thread();  // every time: the thread may come from another device's load
  if (status.ok()) status = start_read(read, std::move(buffer), outcome);
  buffer = StagingRing::Buffer();  // where it was not taken: after settle() the load may be gone
  if (!status.ok()) fail(std::move(status));
  if (outcome == Outcome::kReturned) return_read(read);
  if (outcome != Outcome::kUnderWay) settle(thread_cpu_seconds() - began);
}

Status Ticket::start_read(std::size_t read, StagingRing::Buffer buffer, Outcome& outcome) noexcept {
  const ReadStep& step = plan_.reads[read];
  Source& source = *sources_[step.source];
  ChunkTrace& trace = traces_[read];
  trace.group = step.group;
  trace.source = step.source;
  trace.offset = step.offset;
  trace.nbytes = step.nbytes;
  trace.read_start = elapsed();
  Choice choice;
  if (Status status = choose(read, choice); !status.ok()) return status;
  if (source.fetches()) return start_fetch(read, choice, std::move(buffer), outcome);
  if (device_->fills_in_place() && step.first_copy < step.last_copy) {
    outcome = Outcome::kReturned;
    Status status = start_in_place(read, choice, outcome);
    if (!status.ok() || outcome != Outcome::kReturned) return status;
  }
  expect(true, choice);
  outcome = buffer ? Outcome::kDone : Outcome::kReturned;
  if (!buffer) return {};
  if (step.nbytes > buffer.bytes().size()) return Status::failure(Code::kInvalid, "a read is longer than a buffer");
  if (choice.route == Route::kDirect) {
    if (const auto reader = pool_->direct_reader()) {
      DirectRange range;
      if (source.prepare_direct(step.offset, step.nbytes, buffer.bytes(), range)) {
        buffer.register_with(reader);
        take_off(reader, Flight{read, choice, std::move(range), std::move(buffer), {}});
        outcome = Outcome::kUnderWay;
        return {};
      }
    }
  }
  ConstHostSpan bytes;
  {
    const Range range(RangeKind::kRead, shown(step), step.nbytes);
    Status status = source.read(step.offset, step.nbytes, buffer.bytes(), bytes, choice);
    if (!status.ok()) return status;
  }
  count(read, choice, false, 0);
  return enqueue(read, bytes, std::move(buffer));
}

// Once per read, however often it is returned: finding out what the page cache holds may leave pages in it.
Status Ticket::choose(std::size_t read, Choice& choice) noexcept {
  std::optional<Choice>& chosen = choices_[read];
  if (!chosen) {
    const ReadStep& step = plan_.reads[read];
    if (Status status = sources_[step.source]->choose(step.offset, step.nbytes, choice); !status.ok()) return status;
    chosen = choice;
  }
  choice = *chosen;
  return {};
}

// Reads into the destination itself. Leaves `outcome` alone where these bytes are to be staged.
Status Ticket::start_in_place(std::size_t read, Choice choice, Outcome& outcome) noexcept {
  const ReadStep& step = plan_.reads[read];
  Source& source = *sources_[step.source];
  std::vector<HostSpan> places = places_of(read);
  if (places.empty()) return {};
  expect(false, choice);  // taken back where it turns out otherwise
  if (choice.route == Route::kDirect) {
    Status status = start_direct_in_place(read, choice, places, outcome);
    if (!status.ok() || outcome != Outcome::kReturned) return status;
    // The direct route ended, now or meanwhile, or its blocks are not where the place's are: no buffer holds a long
    // read.
    if (step.joined) choices_[read].emplace(choice).route = Route::kBuffered;
    choice = choices_[read].value_or(choice);
  }
  if (choice.route != Route::kBuffered || !source.can_scatter()) return {};
  {
    const Range range(RangeKind::kRead, shown(step), step.nbytes);
    if (Status status = source.read_scattered(step.offset, places); !status.ok()) return status;
  }
  outcome = Outcome::kDone;
  count(read, choice, true, 0);
  const std::vector<ConstHostSpan> parts(places.begin(), places.end());
  take_sums(step, parts);
  return finish_in_place(read);
}

// Reads around the page cache, and what is not read straight into place into a few blocks beside it: no buffer of the
// ring is made or waited for. This is how a cold file reaches host memory without a copy by the processor.
Status Ticket::start_direct_in_place(std::size_t read, Choice choice, std::vector<HostSpan> places,
                                     Outcome& outcome) noexcept {
  const ReadStep& step = plan_.reads[read];
  Source& source = *sources_[step.source];
  Flight flight{read, choice, {}, {}, std::move(places)};
  const bool prepared = step.nbytes < kLeastDirectInPlace ? prepare_beside(flight) : prepare_in_place(flight);
  if (!prepared) return {};
  if (const auto reader = pool_->direct_reader()) {
    // New memory is zeroed here, beside others that do so, and not by the one thread that all direct reads pass.
    if (!flight.range.parts.empty()) touch_new_pages(flight.places.front());
    take_off(reader, std::move(flight));
    outcome = Outcome::kUnderWay;
    return {};
  }
  std::int64_t result = 0;
  {
    const Range range(RangeKind::kRead, shown(step), step.nbytes);
    result = source.read_prepared(flight.range);
  }
  outcome = Outcome::kDone;
  return take_direct(flight, result, false, outcome);
}

// A short read: all of it.
bool Ticket::prepare_beside(Flight& flight) const noexcept {
  const ReadStep& step = plan_.reads[flight.read];
  const std::size_t blocks = (edges_of(step).lead + step.nbytes + kDirectAlignment - 1) / kDirectAlignment;
  flight.beside = std::make_unique_for_overwrite<DirectBlock[]>(blocks);
  const HostSpan room(flight.beside[0].bytes.data(), blocks * kDirectAlignment);
  return sources_[step.source]->prepare_direct(step.offset, step.nbytes, room, flight.range);
}

// Where address and offset agree on the drive's grid: the two blocks that the place has a part of. One read brings all.
bool Ticket::prepare_in_place(Flight& flight) const noexcept {
  const ReadStep& step = plan_.reads[flight.read];
  Source& source = *sources_[step.source];
  const std::size_t grid = source.direct_grid();
  const HostSpan place = flight.places.front();
  const auto address = reinterpret_cast<std::uintptr_t>(place.data());
  if (flight.places.size() != 1 || grid == 0 || (address - step.offset) % grid != 0) return false;
  const auto [lead, first, last] = edges_of(step);
  flight.beside = std::make_unique_for_overwrite<DirectBlock[]>(2);
  std::array<iovec, 3> parts{};
  std::size_t count = 0;
  if (first != 0) parts[count++] = {flight.beside[0].bytes.data(), kDirectAlignment};
  parts[count++] = {place.data() + first, place.size() - first - last};
  if (last != 0) parts[count++] = {flight.beside[1].bytes.data(), kDirectAlignment};
  return source.prepare_scattered(step.offset - lead, lead, std::span(parts).first(count), flight.range);
}

Ticket::Edges Ticket::edges_of(const ReadStep& step) noexcept {
  const std::size_t lead = step.offset % kDirectAlignment;
  return {lead, lead == 0 ? 0 : kDirectAlignment - lead, (step.offset + step.nbytes) % kDirectAlignment};
}

// Puts what was read beside its place, `bytes` of it or the edges, into it. Returns all of the read's bytes, in order.
std::vector<ConstHostSpan> Ticket::put_beside(const Flight& flight, ConstHostSpan bytes) const noexcept {
  if (flight.range.parts.empty()) {
    for (const HostSpan& place : flight.places) {
      std::memcpy(place.data(), bytes.data(), place.size());
      bytes = bytes.subspan(place.size());
    }
  } else {
    const auto [lead, first, last] = edges_of(plan_.reads[flight.read]);
    const HostSpan place = flight.places.front();
    std::memcpy(place.data(), flight.beside[0].bytes.data() + lead, first);
    std::memcpy(place.data() + place.size() - last, flight.beside[1].bytes.data(), last);
  }
  return {flight.places.begin(), flight.places.end()};
}

void Ticket::take_off(const std::shared_ptr<DirectReader>& reader, Flight flight) noexcept {
  auto* under_way = std::make_unique<Flight>(std::move(flight)).release();  // touch_down has it from here on
  const ReadStep& step = plan_.reads[under_way->read];
  under_way->range_shown = RangeUnderWay(RangeKind::kRead, shown(step), step.nbytes);
  const DirectRange& range = under_way->range;
  reader->submit({range.fd, range.offset, range.target,
                  [this, under_way](std::int64_t result) { touch_down(std::unique_ptr<Flight>(under_way), result); },
                  range.parts});
}

void Ticket::touch_down(std::unique_ptr<Flight> flight, std::int64_t result) noexcept {
  const double began = thread_cpu_seconds();
  flight->range_shown.end();
  const std::size_t read = flight->read;
  Outcome outcome = Outcome::kDone;
  Status status = device_->enter_thread();
  if (status.ok()) status = take_direct(*flight, result, true, outcome);
  if (!status.ok()) fail(std::move(status));
  flight.reset();  // the buffer is back, or on its way to the device
  if (outcome == Outcome::kReturned) return_read(read);
  pool_->poke();  // there is room for another direct read
  settle(thread_cpu_seconds() - began);
}

Status Ticket::take_direct(Flight& flight, std::int64_t result, bool uring, Outcome& outcome) noexcept {
  const ReadStep& step = plan_.reads[flight.read];
  ConstHostSpan bytes;
  bool again = false;
  Source& source = *sources_[step.source];
  Status status = source.finish_direct(flight.range, step.offset, step.nbytes, result, bytes, again);
  if (!status.ok()) return status;
  if (again) {
    // What a ring that broke gives back is read directly all the same, by the reading threads.
    if (!uring || result != -ECANCELED || pool_->direct_reader() != nullptr) flight.choice.route = Route::kBuffered;
    choices_[flight.read] = flight.choice;
    outcome = Outcome::kReturned;
    return {};
  }
  count(flight.read, flight.choice, !flight.range.parts.empty(), uring ? step.nbytes : 0);
  if (flight.buffer) return enqueue(flight.read, bytes, std::move(flight.buffer));
  take_sums(step, put_beside(flight, bytes));
  return finish_in_place(flight.read);
}

// The memory that a read's bytes go to, in order, where they fill it without a gap; empty where they do not.
std::vector<HostSpan> Ticket::places_of(std::size_t read) const {
  const ReadStep& step = plan_.reads[read];
  std::vector<HostSpan> places;
  places.reserve(step.last_copy - step.first_copy);
  std::size_t filled = 0;
  for (std::size_t i = step.first_copy; i < step.last_copy; ++i) {
    const CopyStep& copy = plan_.copies[i];
    if (copy.offset != filled || (copy.rows > 1 && copy.source_pitch != copy.row_bytes)) return {};
    for (std::size_t row = 0; row < copy.rows; ++row) {
      const std::uintptr_t address = copy.address + row * copy.target_pitch;
      places.emplace_back(reinterpret_cast<std::byte*>(address), copy.row_bytes);  // NOLINT(performance-no-int-to-ptr)
    }
    filled += copy.nbytes();
  }
  if (filled != step.nbytes) places.clear();
  return places;
}

Status Ticket::finish_in_place(std::size_t read) noexcept {
  traces_[read].copy_issued = elapsed();
  if (Status status = issue(read); !status.ok()) return status;
  land(read);
  return {};
}

void Ticket::count(std::size_t read, const Choice& choice, bool in_place, std::size_t uring_bytes) noexcept {
  const std::size_t nbytes = plan_.reads[read].nbytes;
  ChunkTrace& trace = traces_[read];
  trace.choice = choice;
  trace.in_place = in_place;
  trace.read_end = elapsed();
  const bool cached = choice.cache == CacheState::kCached;
  const bool uncached = choice.cache == CacheState::kUncached;
  const bool direct = choice.route == Route::kDirect;
  const std::lock_guard lock(mutex_);
  stats_.bytes_read += nbytes;
  stats_.bytes_by_route[static_cast<std::size_t>(choice.route)] += nbytes;
  stats_.in_place_bytes += in_place ? nbytes : 0;
  stats_.cached_bytes += cached ? nbytes : 0;
  stats_.uncached_bytes += uncached ? nbytes : 0;
  stats_.probed_bytes += choice.probed ? nbytes : 0;
  stats_.cached_direct_bytes += cached && direct ? nbytes : 0;
  stats_.uncached_buffered_bytes += uncached && choice.route == Route::kBuffered ? nbytes : 0;
  stats_.uring_bytes += uring_bytes;
}

}  // namespace streamload
