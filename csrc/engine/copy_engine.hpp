// Runs load plans against one device: starts a ticket per plan, closes them all.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/ticket.hpp"

namespace streamload {

// Thread-safe. Engines of several devices may share one pool; tickets keep it and the device alive by themselves.
class CopyEngine {
 public:
  CopyEngine(std::shared_ptr<Device> device, std::shared_ptr<ReadPool> pool);
  CopyEngine(const CopyEngine&) = delete;
  CopyEngine& operator=(const CopyEngine&) = delete;
  ~CopyEngine() { close(); }

  // Starts a load and returns at once; see Ticket::start. Fails with kClosed after close.
  [[nodiscard]] Status submit(Plan plan, std::vector<std::shared_ptr<Source>> sources, std::optional<StreamView> after,
                              std::shared_ptr<Ticket>& out);
  // Cancels and closes every ticket; idempotent. Called by a source of one of them, cancels only and returns false.
  bool close() noexcept;
  void abandon() noexcept;  // close() for the end of the process; see Ticket::abandon

 private:
  [[nodiscard]] std::vector<std::shared_ptr<Ticket>> tickets() const;

  const std::shared_ptr<Device> device_;

  mutable std::mutex mutex_;        // guards the two below
  std::shared_ptr<ReadPool> pool_;  // empty once closed
  std::vector<std::weak_ptr<Ticket>> tickets_;
};

}  // namespace streamload
