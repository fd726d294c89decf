#include "engine/copy_engine.hpp"

#include <algorithm>
#include <utility>

#include "engine/join_reads.hpp"

namespace streamload {
namespace {

Status closed() { return Status::failure(Code::kClosed, "the copy engine is closed"); }

bool any_runs_here(const auto& loads) noexcept {
  return std::any_of(loads.begin(), loads.end(), [](const auto& load) { return load->runs_here(); });
}

}  // namespace

CopyEngine::CopyEngine(std::shared_ptr<Device> device, std::shared_ptr<ReadPool> pool)
    : device_(std::move(device)), pool_(std::move(pool)) {}

Status CopyEngine::submit(Plan plan, std::vector<std::shared_ptr<Source>> sources, std::optional<StreamView> after,
                          std::shared_ptr<Ticket>& out) {
  std::shared_ptr<ReadPool> pool = this->pool();
  if (!pool) return closed();
  if (device_->fills_in_place()) {
    join_reads(plan, longest_in_place(plan.nbytes, pool->options().read_threads),
               [&](std::uint32_t source) { return sources[source]->can_scatter() && !sources[source]->fetches(); });
  }
  std::shared_ptr<Ticket> ticket;
  auto shared = std::make_shared<const Plan>(std::move(plan));
  Status status = Ticket::start(device_, std::move(pool), std::move(shared), std::move(sources), after, ticket);
  if (!status.ok()) return status;
  if (!keep(tickets_, ticket)) return closed();  // closed meanwhile: the ticket ends here
  out = std::move(ticket);
  return {};
}

Status CopyEngine::rotate(Rotation::Setup setup, std::shared_ptr<Rotation>& out) {
  std::shared_ptr<ReadPool> pool = this->pool();
  if (!pool) return closed();
  std::shared_ptr<Rotation> rotation;
  Status status = Rotation::start(device_, std::move(pool), std::move(setup), rotation);
  if (!status.ok()) return status;
  if (!keep(rotations_, rotation)) return closed();
  out = std::move(rotation);
  return {};
}

void CopyEngine::abandon() noexcept {
  for (const auto& ticket : living(tickets_)) ticket->abandon();
  for (const auto& rotation : living(rotations_)) rotation->abandon();
  close();
}

bool CopyEngine::close() noexcept {
  std::shared_ptr<ReadPool> pool;  // its threads end outside the lock, behind the loads
  {
    const std::lock_guard lock(mutex_);
    pool.swap(pool_);
  }
  const auto tickets = living(tickets_);
  const auto rotations = living(rotations_);
  for (const auto& ticket : tickets) ticket->cancel();
  for (const auto& rotation : rotations) rotation->cancel();
  if (any_runs_here(tickets) || any_runs_here(rotations)) return false;  // a thread cannot wait for itself
  for (const auto& ticket : tickets) ticket->close();                    // blocks while another caller closes it
  for (const auto& rotation : rotations) rotation->close();
  return true;
}

std::shared_ptr<ReadPool> CopyEngine::pool() const {
  const std::lock_guard lock(mutex_);
  return pool_;
}

template <class Load>
bool CopyEngine::keep(std::vector<std::weak_ptr<Load>>& loads, const std::shared_ptr<Load>& load) {
  const std::lock_guard lock(mutex_);
  if (!pool_) return false;
  std::erase_if(loads, [](const std::weak_ptr<Load>& known) { return known.expired(); });
  loads.push_back(load);
  return true;
}

template <class Load>
std::vector<std::shared_ptr<Load>> CopyEngine::living(const std::vector<std::weak_ptr<Load>>& loads) const {
  std::vector<std::shared_ptr<Load>> found;
  const std::lock_guard lock(mutex_);
  for (const auto& known : loads) {
    if (auto load = known.lock()) found.push_back(std::move(load));
  }
  return found;
}

}  // namespace streamload
