#include "engine/copy_engine.hpp"

#include <algorithm>
#include <utility>

namespace streamload {

CopyEngine::CopyEngine(std::shared_ptr<Device> device, const CopyEngineOptions& options)
    : device_(std::move(device)),
      options_(options),
      ring_(std::make_shared<StagingRing>(device_, options.chunk_bytes, options.staging_bytes)) {}

Status CopyEngine::submit(Plan plan, std::vector<std::shared_ptr<Source>> sources, std::optional<StreamView> after,
                          std::shared_ptr<Ticket>& out) {
  Status closed = Status::failure(Code::kClosed, "the copy engine is closed");
  std::shared_ptr<StagingRing> ring = this->ring();
  if (!ring) return closed;
  std::shared_ptr<Ticket> ticket;
  Status status =
      Ticket::start(device_, ring, std::move(plan), std::move(sources), options_.read_threads, after, ticket);
  if (!status.ok()) return status;
  const std::lock_guard lock(mutex_);
  if (!ring_) return closed;  // closed meanwhile: the ticket ends here
  std::erase_if(tickets_, [](const std::weak_ptr<Ticket>& known) { return known.expired(); });
  tickets_.push_back(ticket);
  out = std::move(ticket);
  return {};
}

void CopyEngine::abandon() noexcept {
  for (const auto& ticket : tickets()) ticket->abandon();
  close();
}

void CopyEngine::close() noexcept {
  std::shared_ptr<StagingRing> ring;
  {
    const std::lock_guard lock(mutex_);
    ring.swap(ring_);
  }
  const std::vector<std::shared_ptr<Ticket>> tickets = this->tickets();
  for (const auto& ticket : tickets) ticket->cancel();
  const auto runs_here = [](const auto& ticket) { return ticket->runs_here(); };
  if (std::any_of(tickets.begin(), tickets.end(), runs_here)) return;  // a thread cannot wait for itself
  for (const auto& ticket : tickets) ticket->close();                  // blocks while another caller closes it
}

std::vector<std::shared_ptr<Ticket>> CopyEngine::tickets() const {
  std::vector<std::shared_ptr<Ticket>> living;
  const std::lock_guard lock(mutex_);
  for (const auto& known : tickets_) {
    if (auto ticket = known.lock()) living.push_back(std::move(ticket));
  }
  return living;
}

std::size_t CopyEngine::pinned_bytes() const {
  const auto ring = this->ring();
  return ring ? ring->pinned_bytes() : 0;
}

std::size_t CopyEngine::leased() const {
  const auto ring = this->ring();
  return ring ? ring->leased() : 0;
}

std::shared_ptr<StagingRing> CopyEngine::ring() const {
  const std::lock_guard lock(mutex_);
  return ring_;
}

}  // namespace streamload
