#include "engine/ticket.hpp"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <system_error>
#include <utility>

namespace streamload {
namespace {

constexpr auto route_index(Route route) noexcept { return static_cast<std::size_t>(route); }

}  // namespace

Ticket::Ticket(std::shared_ptr<Device> device, std::shared_ptr<StagingRing> ring, Plan plan,
               std::vector<std::shared_ptr<Source>> sources)
    : device_(std::move(device)),
      plan_(std::move(plan)),
      groups_(plan_.group_count),
      traces_(plan_.reads.size()),
      groups_of_source_(sources.size()),
      ring_(std::move(ring)),
      sources_(std::move(sources)) {
  for (std::size_t i = 0; i < plan_.reads.size(); ++i) {
    Group& group = groups_[plan_.reads[i].group];
    if (group.last_read == 0) group.first_read = group.next_read = i;
    group.last_read = i + 1;
  }
  for (Group& group : groups_) {
    for_each_source(group, [&](std::uint32_t source) { ++groups_of_source_[source]; });
    group.to_land = group.last_read - group.first_read;
    group.to_issue = group.to_land;
    if (group.to_land == 0) {  // nothing but empty tensors
      group.issued = true;
      group.resident = true;
      ++groups_resident_;
    }
  }
  done_ = plan_.reads.empty();
}

Status Ticket::start(const std::shared_ptr<Device>& device, std::shared_ptr<StagingRing> ring, Plan plan,
                     std::vector<std::shared_ptr<Source>> sources, std::size_t read_threads,
                     std::optional<StreamView> after, std::shared_ptr<Ticket>& out) {
  auto ticket = std::make_shared<Ticket>(device, std::move(ring), std::move(plan), std::move(sources));
  if (ticket->done()) {
    out = std::move(ticket);
    return {};
  }
  if (Status status = Stream::make(device, ticket->stream_); !status.ok()) return status;
  ticket->stream_view_ = ticket->stream_.view();
  if (after) {
    if (Status status = Event::make(device, ticket->allocated_); !status.ok()) return status;
    const EventView allocated = ticket->allocated_.view();
    if (Status status = device->record(allocated, *after); !status.ok()) return status;
    if (Status status = device->wait(ticket->stream_view_, allocated); !status.ok()) return status;
  }
  for (Group& group : ticket->groups_) {
    if (group.to_land == 0) continue;
    Event event;
    if (Status status = Event::make(device, event); !status.ok()) return status;
    group.event = std::make_shared<Event>(std::move(event));
  }
  const std::size_t readers = std::clamp<std::size_t>(read_threads, 1, ticket->plan_.reads.size());
  ticket->readers_running_ = static_cast<std::uint32_t>(readers);
  try {
    ticket->threads_.reserve(readers + 1);
    ticket->thread_ids_.reserve(readers + 1);
    ticket->threads_.emplace_back([self = ticket.get()] { self->run_lander(); });
    for (std::uint32_t thread = 0; thread < readers; ++thread) {
      ticket->threads_.emplace_back([self = ticket.get(), thread] { self->run_reader(thread); });
    }
  } catch (const std::system_error& error) {
    {
      const std::lock_guard lock(ticket->mutex_);  // those that never started will not count themselves out
      ticket->readers_running_ -= static_cast<std::uint32_t>(readers + 1 - ticket->threads_.size());
    }
    return Status::failure(Code::kDeviceFailed, std::string("cannot start the load's threads: ") + error.what());
  }
  for (const std::jthread& thread : ticket->threads_) ticket->thread_ids_.push_back(thread.get_id());
  out = std::move(ticket);
  return {};
}

void Ticket::run_reader(std::uint32_t thread) noexcept {
  ::pthread_setname_np(::pthread_self(), "streamload-read");
  Status status = device_->enter_thread();
  while (status.ok() && !stop_.stop_requested()) {
    // The lease comes first: a claimed read never waits for a buffer that others hold.
    StagingRing::Buffer buffer;
    if (!device_->fills_in_place()) status = ring_->lease(stop_.get_token(), buffer);
    std::size_t read = 0;
    if (!status.ok() || !claim(read)) break;
    status = serve(read, thread, buffer);
  }
  if (!status.ok()) fail(std::move(status));
  {
    const std::lock_guard lock(mutex_);
    --readers_running_;
  }
  changed_.notify_all();
}

bool Ticket::claim(std::size_t& read) noexcept {
  const std::lock_guard lock(mutex_);
  const auto take = [&](std::uint32_t index) {
    Group& group = groups_[index];
    if (group.next_read == group.last_read) return false;
    read = group.next_read++;
    return true;
  };
  for (; !promoted_.empty(); promoted_.pop_front()) {
    if (take(promoted_.front())) return true;
  }
  for (; cursor_ < plan_.group_count; ++cursor_) {
    if (take(cursor_)) return true;
  }
  return false;
}

Status Ticket::serve(std::size_t read, std::uint32_t thread, StagingRing::Buffer& buffer) noexcept {
  const ReadStep& step = plan_.reads[read];
  ChunkTrace& trace = traces_[read];
  trace.group = step.group;
  trace.source = step.source;
  trace.thread = thread;
  trace.offset = step.offset;
  trace.nbytes = step.nbytes;
  trace.read_start = elapsed();
  if (device_->fills_in_place()) {
    bool taken = false;
    if (Status status = serve_in_place(read, taken); !status.ok() || taken) return status;
    if (Status status = ring_->lease(stop_.get_token(), buffer); !status.ok()) return status;
  }
  ConstHostSpan bytes;
  Choice choice;
  Status status = sources_[step.source]->choose(step.offset, step.nbytes, choice);
  if (status.ok()) status = sources_[step.source]->read(step.offset, step.nbytes, buffer.bytes(), bytes, choice);
  if (!status.ok()) return status;
  trace.route = choice.route;
  trace.read_end = elapsed();
  bytes_read_ += step.nbytes;
  bytes_by_route_[route_index(trace.route)] += step.nbytes;
  return enqueue(read, bytes, std::move(buffer));
}

Status Ticket::serve_in_place(std::size_t read, bool& taken) noexcept {
  const ReadStep& step = plan_.reads[read];
  // A read is in place only where its copies tile it in order; the plan makes them so.
  std::vector<HostSpan> targets;
  targets.reserve(step.last_copy - step.first_copy);
  std::size_t filled = 0;
  for (std::size_t i = step.first_copy; i < step.last_copy; ++i) {
    const CopyStep& copy = plan_.copies[i];
    if (copy.offset != filled) return {};
    filled += copy.target.nbytes;
    auto* address = reinterpret_cast<std::byte*>(copy.target.address);  // NOLINT(performance-no-int-to-ptr)
    targets.emplace_back(address, copy.target.nbytes);
  }
  if (filled != step.nbytes) return {};
  Source& source = *sources_[step.source];
  Choice choice;
  if (Status status = source.choose(step.offset, step.nbytes, choice); !status.ok()) return status;
  taken = source.can_scatter() && choice.route == Route::kBuffered;
  if (!taken) return {};
  if (Status status = source.read_scattered(step.offset, targets); !status.ok()) return status;
  ChunkTrace& trace = traces_[read];
  trace.route = kInPlace;
  trace.read_end = trace.copy_issued = elapsed();
  bytes_read_ += step.nbytes;
  bytes_by_route_[route_index(trace.route)] += step.nbytes;
  if (Status status = issue(read); !status.ok()) return status;
  land(read);
  return {};
}

Status Ticket::enqueue(std::size_t read, ConstHostSpan bytes, StagingRing::Buffer buffer) noexcept {
  const ReadStep& step = plan_.reads[read];
  Status status;
  for (std::size_t i = step.first_copy; i < step.last_copy && status.ok(); ++i) {
    const CopyStep& copy = plan_.copies[i];
    status = device_->copy(copy.target, bytes.subspan(copy.offset, copy.target.nbytes), stream_view_);
  }
  if (status.ok()) status = device_->record(buffer.landed(), stream_view_);
  if (!status.ok()) {
    const std::lock_guard lock(mutex_);
    stranded_.push_back(std::move(buffer));
    return status;
  }
  traces_[read].copy_issued = elapsed();
  status = issue(read);
  // Before the lander sees it: a group whose check failed must not become resident.
  if (!status.ok()) fail(status);
  {
    const std::lock_guard lock(mutex_);
    landings_.push_back(Landing{std::move(buffer), read});
  }
  changed_.notify_all();
  return status;
}

// Counts one read of its group as issued; the last one records the group's event. Every other reader of the
// group enqueued its copies before it counted, so the event stands behind all of them.
Status Ticket::issue(std::size_t read) noexcept {
  Group& group = groups_[plan_.reads[read].group];
  if (group.to_issue.fetch_sub(1) != 1) return {};
  Status changed;
  for_each_source(group, [&](std::uint32_t source) {
    if (changed.ok()) changed = sources_[source]->check_unchanged();
    if (groups_of_source_[source].fetch_sub(1) == 1) sources_[source]->retire();
  });
  if (!changed.ok()) return changed;
  if (Status status = device_->record(group.event->view(), stream_view_); !status.ok()) return status;
  {
    const std::lock_guard lock(mutex_);
    group.issued = true;
  }
  changed_.notify_all();
  return {};
}

template <class Visit>
void Ticket::for_each_source(const Group& group, Visit&& visit) const {
  std::uint32_t last = ~std::uint32_t{0};  // within a group, reads of one source stand together
  for (std::size_t i = group.first_read; i < group.last_read; ++i) {
    if (const std::uint32_t source = plan_.reads[i].source; std::exchange(last, source) != source) visit(source);
  }
}

void Ticket::run_lander() noexcept {
  ::pthread_setname_np(::pthread_self(), "streamload-land");
  if (Status status = device_->enter_thread(); !status.ok()) fail(std::move(status));
  while (true) {
    Landing landing;
    {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return !landings_.empty() || readers_running_ == 0; });
      if (landings_.empty()) return;
      landing = std::move(landings_.front());
      landings_.pop_front();
    }
    if (Status status = device_->synchronize(landing.buffer.landed()); !status.ok()) {
      fail(std::move(status));
      const std::lock_guard lock(mutex_);
      stranded_.push_back(std::move(landing.buffer));
      continue;
    }
    landing.buffer = StagingRing::Buffer();  // readers go on before waiters wake
    land(landing.read);
  }
}

void Ticket::land(std::size_t read) noexcept {
  const ReadStep& step = plan_.reads[read];
  {
    const std::lock_guard lock(mutex_);
    ChunkTrace& trace = traces_[read];
    trace.copy_done = elapsed();
    trace.landed = true;
    ++reads_landed_;
    if (failure_.ok()) bytes_resident_ += step.nbytes;  // what drains after a failure is no progress
    Group& group = groups_[step.group];
    if (--group.to_land == 0 && failure_.ok()) {
      group.resident = true;
      if (first_group_seconds_ == 0) first_group_seconds_ = trace.copy_done;
      ++groups_resident_;
    }
    if (reads_landed_ == plan_.reads.size() && failure_.ok()) {
      seconds_ = trace.copy_done;
      done_ = true;
    }
  }
  changed_.notify_all();
}

void Ticket::fail(Status status) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok() || done_) return;
    failure_ = std::move(status);
    seconds_ = elapsed();
    failed_ = true;
    done_ = true;
  }
  stop_.request_stop();
  device_->expedite(stream_view_);
  changed_.notify_all();
}

void Ticket::cancel() noexcept { fail(Status::failure(Code::kCancelled, "the load was cancelled")); }

void Ticket::abandon() noexcept {
  abandoned_ = true;
  cancel();
}

Status Ticket::tell_failure() const {
  while (abandoned_ && ::gettid() != ::getpid()) ::pause();
  return status();
}

bool Ticket::runs_here() const noexcept {
  return std::find(thread_ids_.begin(), thread_ids_.end(), std::this_thread::get_id()) != thread_ids_.end();
}

void Ticket::close() noexcept {
  if (runs_here()) return cancel();
  const std::lock_guard closing(closing_);
  cancel();
  threads_.clear();  // joins
  stream_.reset();   // waits for copies that no event covers
  allocated_.reset();
  sources_.clear();
  std::shared_ptr<StagingRing> ring;  // these end outside the lock, the ring last
  std::vector<StagingRing::Buffer> stranded;
  std::vector<std::shared_ptr<Event>> events;
  const std::lock_guard lock(mutex_);
  ring.swap(ring_);
  stranded.swap(stranded_);
  events.reserve(groups_.size());
  for (Group& group : groups_) events.push_back(std::move(group.event));
}

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
  if (!promoted_.empty() && promoted_.front() == index) return;
  promoted_.push_front(index);
}

bool Ticket::resident(std::uint32_t index) const noexcept {
  return !failed_ && index < plan_.group_count && groups_[index].resident;
}

Status Ticket::status() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

TicketStats Ticket::stats() const {
  TicketStats stats;
  stats.bytes_total = plan_.nbytes;
  stats.bytes_read = bytes_read_;
  stats.bytes_resident = bytes_resident_;
  for (std::size_t i = 0; i < stats.bytes_by_route.size(); ++i) stats.bytes_by_route[i] = bytes_by_route_[i];
  stats.groups = plan_.group_count;
  stats.stall_seconds = std::chrono::duration<double>(std::chrono::nanoseconds(stall_nanoseconds_)).count();
  const std::lock_guard lock(mutex_);
  stats.pinned_bytes = ring_ ? ring_->pinned_bytes() : 0;
  stats.groups_resident = groups_resident_;
  stats.first_group_seconds = first_group_seconds_;
  stats.seconds = done_ ? seconds_ : elapsed();
  return stats;
}

std::vector<ChunkTrace> Ticket::trace() const {
  std::vector<ChunkTrace> landed;
  const std::lock_guard lock(mutex_);
  landed.reserve(reads_landed_);
  for (const ChunkTrace& trace : traces_) {
    if (trace.landed) landed.push_back(trace);
  }
  return landed;
}

double Ticket::elapsed() const noexcept { return std::chrono::duration<double>(Clock::now() - started_).count(); }

}  // namespace streamload
