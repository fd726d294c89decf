// Runs load plans against one device: owns the staging ring, starts a ticket per plan, closes them all.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "engine/ticket.hpp"

namespace streamload {

struct CopyEngineOptions {
  std::size_t chunk_bytes = 0;    // largest read, and the size of a staging buffer
  std::size_t staging_bytes = 0;  // most the ring grows to
  std::size_t read_threads = 0;   // per ticket
};

// Thread-safe. Tickets keep the ring and the device alive by themselves.
class CopyEngine {
 public:
  CopyEngine(std::shared_ptr<Device> device, const CopyEngineOptions& options);
  CopyEngine(const CopyEngine&) = delete;
  CopyEngine& operator=(const CopyEngine&) = delete;
  ~CopyEngine() { close(); }

  // Starts a load and returns at once; see Ticket::start. Fails with kClosed after close.
  [[nodiscard]] Status submit(Plan plan, std::vector<std::shared_ptr<Source>> sources, std::optional<StreamView> after,
                              std::shared_ptr<Ticket>& out);
  // Cancels and joins every ticket; idempotent. Called on one of their threads (by a callback source), cancels only.
  void close() noexcept;
  void abandon() noexcept;  // close() for the end of the process; see Ticket::abandon

  [[nodiscard]] std::size_t pinned_bytes() const;  // of the ring, now
  [[nodiscard]] std::size_t leased() const;        // staging buffers in use
  [[nodiscard]] const CopyEngineOptions& options() const noexcept { return options_; }

 private:
  [[nodiscard]] std::shared_ptr<StagingRing> ring() const;  // empty once closed
  [[nodiscard]] std::vector<std::shared_ptr<Ticket>> tickets() const;

  const std::shared_ptr<Device> device_;
  const CopyEngineOptions options_;

  mutable std::mutex mutex_;  // guards the two below
  std::shared_ptr<StagingRing> ring_;
  std::vector<std::weak_ptr<Ticket>> tickets_;
};

}  // namespace streamload
