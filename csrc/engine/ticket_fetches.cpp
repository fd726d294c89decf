// A ticket's reads that their source fetches: many under way at once, and no thread waits for them.
#include <utility>

#include "engine/ticket.hpp"

namespace streamload {

// With room for one always: a source that others fill must not keep this load from ever asking again.
bool Ticket::waits_for_room() const noexcept {
  if (under_way_ == 0) return false;
  const Source& source = *sources_[plan_.reads[peek_next()].source];
  return source.fetches() && !source.has_room();
}

// Hands the read to its source: into the destination itself, or into `buffer` where that cannot be.
Status Ticket::start_fetch(std::size_t read, Choice choice, StagingRing::Buffer buffer, Outcome& outcome) noexcept {
  const ReadStep& step = plan_.reads[read];
  auto fetched = std::make_unique<Fetched>(Fetched{read, choice, {}, {}});
  if (device_->fills_in_place() && step.first_copy < step.last_copy) fetched->targets = places_of(read);
  const bool in_place = !fetched->targets.empty();
  expect(!in_place, choice);
  if (!in_place && !buffer) {
    outcome = Outcome::kReturned;
    return {};
  }
  if (!in_place) {
    fetched->targets = {buffer.bytes().first(step.nbytes)};
    fetched->buffer = std::move(buffer);
  }
  outcome = Outcome::kUnderWay;
  std::vector<HostSpan> targets = fetched->targets;
  fetched->range_shown = RangeUnderWay(RangeKind::kRead, shown(step), step.nbytes);
  auto* under_way = fetched.release();  // take_fetched has it from here on
  sources_[step.source]->fetch(step.offset, std::move(targets), stop_.get_token(),
                               [this, under_way](Status status, const FetchCounts& counts) {
                                 take_fetched(std::unique_ptr<Fetched>(under_way), std::move(status), counts);
                               });
  return {};
}

void Ticket::take_fetched(std::unique_ptr<Fetched> fetched, Status status, const FetchCounts& counts) noexcept {
  fetched->range_shown.end();
  const std::size_t read = fetched->read;
  {
    const std::lock_guard lock(mutex_);
    stats_.fetches += counts;
  }
  if (status.ok()) status = device_->enter_thread();
  if (status.ok()) {
    count(read, fetched->choice, !fetched->buffer, 0);
    if (fetched->buffer) {
      status = enqueue(read, fetched->targets.front(), std::move(fetched->buffer));
    } else {
      const std::vector<ConstHostSpan> parts(fetched->targets.begin(), fetched->targets.end());
      take_sums(plan_.reads[read], parts);
      status = finish_in_place(read);
    }
  }
  if (!status.ok()) fail(std::move(status));
  fetched.reset();  // the buffer is back, or on its way to the device
  const std::shared_ptr<ReadPool> pool = pool_;
  settle(counts.cpu_seconds);  // the ticket may be gone from here on
  pool->poke();                // there is room for another, or none under way to wait for
}

}  // namespace streamload
