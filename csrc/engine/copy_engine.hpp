// Runs load plans against one device: starts a ticket per plan, or a rotation over many, closes them all.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/rotation.hpp"
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
  // Starts a rotation and returns at once; see Rotation::start. Fails with kClosed after close.
  [[nodiscard]] Status rotate(Rotation::Setup setup, std::shared_ptr<Rotation>& out);
  // Cancels and closes every ticket and rotation; idempotent. Called by a source of one of them, cancels only and
  // returns false.
  bool close() noexcept;
  void abandon() noexcept;  // close() for the end of the process; see Ticket::abandon

 private:
  [[nodiscard]] std::shared_ptr<ReadPool> pool() const;
  // Keeps a load that was just started, unless the engine was closed meanwhile.
  template <class Load>
  [[nodiscard]] bool keep(std::vector<std::weak_ptr<Load>>& loads, const std::shared_ptr<Load>& load);
  template <class Load>
  [[nodiscard]] std::vector<std::shared_ptr<Load>> living(const std::vector<std::weak_ptr<Load>>& loads) const;

  const std::shared_ptr<Device> device_;

  mutable std::mutex mutex_;        // guards the three below
  std::shared_ptr<ReadPool> pool_;  // empty once closed
  std::vector<std::weak_ptr<Ticket>> tickets_;
  std::vector<std::weak_ptr<Rotation>> rotations_;
};

}  // namespace streamload
