#include "engine/copy_engine.hpp"

#include <algorithm>
#include <utility>

namespace streamload {

CopyEngine::CopyEngine(std::shared_ptr<Device> device, std::shared_ptr<ReadPool> pool)
    : device_(std::move(device)), pool_(std::move(pool)) {}

Status CopyEngine::submit(Plan plan, std::vector<std::shared_ptr<Source>> sources, std::optional<StreamView> after,
                          std::shared_ptr<Ticket>& out) {
  Status closed = Status::failure(Code::kClosed, "the copy engine is closed");
  std::shared_ptr<ReadPool> pool;
  {
    const std::lock_guard lock(mutex_);
    pool = pool_;
  }
  if (!pool) return closed;
  std::shared_ptr<Ticket> ticket;
  Status status = Ticket::start(device_, std::move(pool), std::move(plan), std::move(sources), after, ticket);
  if (!status.ok()) return status;
  const std::lock_guard lock(mutex_);
  if (!pool_) return closed;  // closed meanwhile: the ticket ends here
  std::erase_if(tickets_, [](const std::weak_ptr<Ticket>& known) { return known.expired(); });
  tickets_.push_back(ticket);
  out = std::move(ticket);
  return {};
}

void CopyEngine::abandon() noexcept {
  for (const auto& ticket : tickets()) ticket->abandon();
  close();
}

bool CopyEngine::close() noexcept {
  std::shared_ptr<ReadPool> pool;  // its threads end outside the lock, behind the tickets
  {
    const std::lock_guard lock(mutex_);
    pool.swap(pool_);
  }
  const std::vector<std::shared_ptr<Ticket>> tickets = this->tickets();
  for (const auto& ticket : tickets) ticket->cancel();
  const auto runs_here = [](const auto& ticket) { return ticket->runs_here(); };
  if (std::any_of(tickets.begin(), tickets.end(), runs_here)) return false;  // a thread cannot wait for itself
  for (const auto& ticket : tickets) ticket->close();                        // blocks while another caller closes it
  return true;
}

std::vector<std::shared_ptr<Ticket>> CopyEngine::tickets() const {
  std::vector<std::shared_ptr<Ticket>> living;
  const std::lock_guard lock(mutex_);
  for (const auto& known : tickets_) {
    if (auto ticket = known.lock()) living.push_back(std::move(ticket));
  }
  return living;
}

}  // namespace streamload
