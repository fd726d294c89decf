#include "engine/ticket.hpp"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>

namespace streamload {

Ticket::Ticket(std::shared_ptr<Device> device, std::shared_ptr<ReadPool> pool, std::shared_ptr<const Plan> plan,
               std::vector<std::shared_ptr<Source>> sources, Attachment attachment)
    : pool_(std::move(pool)),
      device_(std::move(device)),
      shared_plan_(std::move(plan)),
      attachment_(std::move(attachment)),
      keys_by_group_(plan_.keys.size()),
      groups_(plan_.group_count),
      unclaimed_(plan_.reads.size()),
      traces_(plan_.reads.size()),
      choices_(plan_.reads.size()),
      groups_of_source_(sources.size()),
      sums_(plan_.sums.size()),
      sources_(std::move(sources)) {
  for (std::size_t i = 0; i < plan_.reads.size(); ++i) {
    Group& group = groups_[plan_.reads[i].group];
    if (group.last_read == 0) group.first_read = group.next_read = i;
    group.last_read = i + 1;
  }
  std::iota(keys_by_group_.begin(), keys_by_group_.end(), std::size_t{0});
  std::sort(keys_by_group_.begin(), keys_by_group_.end(), [&](std::size_t a, std::size_t b) {
    return std::pair(plan_.keys[a].group, a) < std::pair(plan_.keys[b].group, b);
  });
  for (std::size_t i = 0; i < keys_by_group_.size(); ++i) {
    Group& group = groups_[plan_.keys[keys_by_group_[i]].group];
    if (group.last_key == 0) group.first_key = i;
    group.last_key = i + 1;
  }
  for (Group& group : groups_) {
    for_each_source(group, [&](std::uint32_t source) { ++groups_of_source_[source]; });
    group.to_land = group.last_read - group.first_read;
    group.to_issue = group.to_land;
    if (group.to_land == 0) {  // nothing but empty tensors
      group.issued = true;
      group.resident = true;
      ++stats_.groups_resident;
    }
  }
  stats_.groups = plan_.group_count;
  stats_.bytes_total = plan_.nbytes;
  stream_view_ = attachment_.stream;
  expected_.buffer = !device_->fills_in_place();
  done_ = plan_.reads.empty();
}

Status Ticket::start(const std::shared_ptr<Device>& device, std::shared_ptr<ReadPool> pool,
                     std::shared_ptr<const Plan> plan, std::vector<std::shared_ptr<Source>> sources,
                     std::optional<StreamView> after, std::shared_ptr<Ticket>& out, Attachment attachment) {
  auto ticket =
      std::make_shared<Ticket>(device, std::move(pool), std::move(plan), std::move(sources), std::move(attachment));
  if (ticket->done()) {
    out = std::move(ticket);
    return {};
  }
  // A device that is filled in place may do without a stream and its events.
  if (!device->fills_in_place() || after) {
    if (Status status = ticket->ensure_stream(); !status.ok()) return status;
  }
  if (after) {
    if (Status status = Event::make(device, ticket->allocated_); !status.ok()) return status;
    const EventView allocated = ticket->allocated_.view();
    if (Status status = device->record(allocated, *after); !status.ok()) return status;
    if (Status status = device->wait(ticket->stream_view_, allocated); !status.ok()) return status;
  }
  if (!ticket->attached()) name_groups(ticket->group_count());
  for (Group& group : ticket->groups_) {
    if (group.to_land == 0 || device->fills_in_place()) continue;
    group.event = ticket->attachment_.issued;
    if (group.event) continue;
    Event event;
    if (Status status = Event::make(device, event); !status.ok()) return status;
    group.event = std::make_shared<Event>(std::move(event));
  }
  if (Status status = ticket->pool_->add(*ticket); !status.ok()) return status;
  out = std::move(ticket);
  return {};
}

Status Ticket::ensure_stream() noexcept {
  const std::lock_guard lock(starting_stream_);
  if (stream_ || attached()) return {};
  Status status = Stream::make(device_, stream_);
  stream_view_ = stream_.view();
  return status;
}

Status Ticket::enqueue(std::size_t read, ConstHostSpan bytes, StagingRing::Buffer buffer) noexcept {
  const ReadStep& step = plan_.reads[read];
  take_sums(step, std::array{bytes});
  Landing landing{std::move(buffer), {}, read};
  {
    const std::lock_guard lock(mutex_);
    if (!spare_events_.empty()) {
      landing.copied = std::move(spare_events_.back());
      spare_events_.pop_back();
    }
  }
  if (!landing.copied) {
    if (Status status = Event::make(device_, landing.copied); !status.ok()) return status;
  }
  Status status = ensure_stream();
  pool_->delay();
  {
    const Range range(RangeKind::kCopy, shown(step), ranges_wanted() ? copied_bytes(step) : 0);
    if (status.ok()) status = copy_out(step, bytes);
    if (status.ok()) status = device_->record(landing.copied.view(), stream_view_);
  }
  if (!status.ok()) {
    const std::lock_guard lock(mutex_);
    stranded_.push_back(std::move(landing));
    return status;
  }
  landing.buffer.mark_copying();
  traces_[read].copy_issued = elapsed();
  status = issue(read);
  // Before the lander sees it: a group whose check failed must not become resident.
  if (!status.ok()) fail(status);
  bool first = false;
  {
    const std::lock_guard lock(mutex_);
    landings_.push_back(std::move(landing));
    first = !std::exchange(lander_runs_, true);
  }
  worked_.notify_all();
  if (first) {
    if (Status started = pool_->run([this] { run_lander(); }); !started.ok()) {
      const std::lock_guard lock(mutex_);
      lander_runs_ = false;
      for (; !landings_.empty(); landings_.pop_front()) stranded_.push_back(std::move(landings_.front()));
      status = std::move(started);
    }
  }
  return status;
}

Status Ticket::copy_out(const ReadStep& step, ConstHostSpan bytes) noexcept {
  constexpr std::size_t kMost = 256;
  std::array<CopyBlock, kMost> blocks;  // NOLINT(cppcoreguidelines-pro-type-member-init): written before it is read
  Status status;
  for (std::size_t i = step.first_copy; i < step.last_copy && status.ok();) {
    std::size_t count = 0;
    for (; i < step.last_copy && count < kMost; ++i, ++count) {
      const CopyStep& copy = plan_.copies[i];
      const std::byte* from = bytes.data() + copy.offset;
      blocks[count] = {copy.address, copy.target_pitch, from, copy.source_pitch, copy.row_bytes, copy.rows};
    }
    status = device_->copy_blocks(std::span(blocks).first(count), stream_view_);
  }
  return status;
}

// Counts one read of its group as issued; the last one records the group's event. Every other read of the
// group enqueued its copies before it counted, so the event stands behind all of them.
Status Ticket::issue(std::size_t read) noexcept {
  Group& group = groups_[plan_.reads[read].group];
  if (group.to_issue.fetch_sub(1) != 1) return {};
  Status wrong;
  for_each_source(group, [&](std::uint32_t source) {
    if (wrong.ok()) wrong = sources_[source]->check_unchanged();
    if (groups_of_source_[source].fetch_sub(1) == 1 && !attached()) sources_[source]->retire();
  });
  if (wrong.ok()) wrong = check_sums(group);
  if (!wrong.ok()) return wrong;
  if (group.event) {  // else whoever waits, waits on the host
    if (Status status = device_->record(group.event->view(), stream_view_); !status.ok()) return status;
  }
  {
    const std::lock_guard lock(mutex_);
    group.issued = true;
  }
  changed_.notify_all();
  tell(Stage::kIssued);
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
  if (Status status = device_->enter_thread(); !status.ok()) fail(std::move(status));
  std::vector<std::shared_ptr<Source>> sources;  // ends when nothing here is held or used any more
  std::unique_lock lock(mutex_);
  while (true) {
    const auto over = [&] { return reads_landed_ == plan_.reads.size() || (failed_ && under_way_ == 0); };
    worked_.wait(lock, [&] { return !landings_.empty() || over(); });
    if (landings_.empty()) break;
    Landing landing = std::move(landings_.front());
    landings_.pop_front();
    lock.unlock();
    if (Status status = await_copies(landing); !status.ok()) {
      fail(std::move(status));
      lock.lock();
      stranded_.push_back(std::move(landing));
      continue;
    }
    landing.buffer = StagingRing::Buffer();  // readers go on before waiters wake
    pool_->delay();
    land(landing.read);
    lock.lock();
    spare_events_.push_back(std::move(landing.copied));
  }
  if (!stranded_.empty()) {
    lock.unlock();
    drain();
    lock.lock();
  }
  if (under_way_ == 0) sources.swap(sources_);
  lander_runs_ = false;
  worked_.notify_all();  // under the lock: who waits for it destroys the ticket next
}

Status Ticket::await_copies(const Landing& landing) noexcept {
  const ReadStep& step = plan_.reads[landing.read];
  const Range range(RangeKind::kLand, shown(step), ranges_wanted() ? copied_bytes(step) : 0);
  return device_->synchronize(landing.copied.view());
}

void Ticket::land(std::size_t read) noexcept {
  const ReadStep& step = plan_.reads[read];
  bool news = false;  // for those who wait
  bool all = false;
  {
    const std::lock_guard lock(mutex_);
    ChunkTrace& trace = traces_[read];
    trace.copy_done = elapsed();
    trace.landed = true;
    ++reads_landed_;
    if (failure_.ok() && stats_.first_byte_seconds == 0) stats_.first_byte_seconds = trace.copy_done;
    if (failure_.ok()) stats_.bytes_resident += copied_bytes(step);  // what drains after a failure is no progress
    Group& group = groups_[step.group];
    if (--group.to_land == 0 && failure_.ok()) {
      group.resident = true;
      news = true;
      if (stats_.first_group_seconds == 0) stats_.first_group_seconds = trace.copy_done;
      ++stats_.groups_resident;
    }
    all = reads_landed_ == plan_.reads.size() && failure_.ok();
    if (all) {
      stats_.seconds = trace.copy_done;
      done_ = true;
    }
  }
  if (news) changed_.notify_all();
  if (all) worked_.notify_all();
  if (all) pool_->remove(*this);
  if (all) tell(Stage::kLanded);
}

std::size_t Ticket::copied_bytes(const ReadStep& step) const noexcept {
  std::size_t nbytes = 0;
  for (std::size_t i = step.first_copy; i < step.last_copy; ++i) nbytes += plan_.copies[i].nbytes();
  return nbytes;
}

std::size_t Ticket::read_bytes(const Group& group) const noexcept {
  std::size_t nbytes = 0;
  for (std::size_t i = group.first_read; i < group.last_read; ++i) nbytes += plan_.reads[i].nbytes;
  return nbytes;
}

void Ticket::fail(Status status) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok() || done_) return;
    failure_ = std::move(status);
    stats_.seconds = elapsed();
    failed_ = true;
    done_ = true;
  }
  {
    const std::lock_guard lock(starting_stream_);
    if (stream_ || attached()) device_->expedite(stream_view_);
  }
  stop_.request_stop();
  changed_.notify_all();
  worked_.notify_all();
  tell(Stage::kFailed);
}

void Ticket::tell(Stage stage) const noexcept {
  if (attached()) attachment_.tell(stage);
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
  std::shared_ptr<ReadPool> pool;
  {
    const std::lock_guard lock(mutex_);
    pool = pool_;
  }
  return pool && pool->served_here() == this;
}

void Ticket::close() noexcept {
  if (runs_here()) return cancel();
  const std::lock_guard closing(closing_);
  cancel();
  std::shared_ptr<ReadPool> pool;  // ends last, and all of these outside the lock, behind the stream
  std::vector<Landing> stranded;
  std::vector<Event> events;
  std::vector<std::shared_ptr<Event>> group_events;
  {
    const std::lock_guard lock(mutex_);
    pool = pool_;
  }
  if (!pool) return;
  pool->remove(*this);
  {
    std::unique_lock lock(mutex_);
    worked_.wait(lock, [&] { return under_way_ == 0 && !lander_runs_; });
    stranded.swap(stranded_);
    for (; !landings_.empty(); landings_.pop_front()) stranded.push_back(std::move(landings_.front()));
    events.swap(spare_events_);
    group_events.reserve(groups_.size());
    for (Group& group : groups_) group_events.push_back(std::move(group.event));
    pool_.reset();
  }
  end_stream(!stranded.empty());
  allocated_.reset();
}

// Waits for copies that no event covers.
void Ticket::end_stream(bool stranded) noexcept {
  const std::lock_guard lock(starting_stream_);
  if (attached() && stranded) device_->drain(stream_view_);
  stream_.reset();
}

Status Ticket::status() const {
  const std::lock_guard lock(mutex_);
  return failure_;
}

TicketStats Ticket::stats() const {
  const std::lock_guard lock(mutex_);
  TicketStats stats = stats_;
  stats.stall_seconds = std::chrono::duration<double>(std::chrono::nanoseconds(stall_nanoseconds_)).count();
  stats.staging_bytes = pool_ ? pool_->ring().bytes() : 0;
  stats.pinned_bytes = pool_ ? pool_->ring().pinned_bytes() : 0;
  if (!done_) stats.seconds = elapsed();
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
