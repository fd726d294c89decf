// A source before another that fetches: what a cache file holds comes from there, the rest is fetched and then held.
//
//   fetch → is it there? read it
//           else claim it, let the inner source fetch it into the targets, done; put it into the file behind that
//           else somebody is fetching it: look again a little later
//
// Putting never holds up a load: bytes are copied aside, and left out where too many wait to be written already. Only
// a lossless file is waited for. No thread of the load or of the inner source ever waits for a file or for a claim.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/task_threads.hpp"
#include "io/cache_file.hpp"
#include "io/source.hpp"

namespace streamload {

// What the tiered sources of a process share. Thread-safe.
class TierThreads {
 public:
  using Spare = std::vector<std::byte>;

  explicit TierThreads(std::size_t most_waiting_bytes = kMostWaitingBytes);
  TierThreads(const TierThreads&) = delete;
  TierThreads& operator=(const TierThreads&) = delete;
  ~TierThreads();

  // Writes what waits to be written; later fetches end with kClosed. The inner sources' clients are closed before.
  void close() noexcept;

 private:
  friend class TieredSource;
  static constexpr int kNice = 5;
  struct Threads {
    TaskThreads reading{"streamload-tier", 2};  // and looks again
    TaskThreads copying{"streamload-tier", 1};
    TaskThreads writing{"streamload-tier", 2};        // what a load waits for
    TaskThreads behind{"streamload-tier", 2, kNice};  // what it does not: it takes no processor from the load
    TaskThreads publishing{"streamload-tier", 1, kNice};
  };
  static constexpr std::size_t kMostWaitingBytes = 64U << 20;

  // Gives memory to copy aside to; false where too much waits already.
  [[nodiscard]] bool take_spare(std::size_t nbytes, Spare& out) noexcept;
  void give_back(Spare spare) noexcept;

  const std::size_t most_waiting_bytes_;
  const pid_t owner_;  // a forked child has none of the threads
  std::unique_ptr<Threads> threads_ = std::make_unique<Threads>();
  std::atomic<std::size_t> looking_{0};  // fetches that wait for others' claims

  std::mutex mutex_;  // guards both below
  std::size_t waiting_bytes_ = 0;
  std::vector<Spare> spares_;
};

class TieredSource final : public Source {
 public:
  // kInvalid where `inner` does not fetch.
  [[nodiscard]] static Status make(std::shared_ptr<TierThreads> threads, std::shared_ptr<Source> inner,
                                   std::shared_ptr<CacheFile> file, std::shared_ptr<Source>& out);
  TieredSource(std::shared_ptr<TierThreads> threads, std::shared_ptr<Source> inner, std::shared_ptr<CacheFile> file);

  [[nodiscard]] const std::string& url() const noexcept override { return parts_->inner->url(); }
  [[nodiscard]] Status choose(std::uint64_t offset, std::size_t nbytes, Choice& out) noexcept override {
    return parts_->inner->choose(offset, nbytes, out);
  }
  [[nodiscard]] Status read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                            Choice& choice) noexcept override;
  [[nodiscard]] bool fetches() const noexcept override { return true; }
  [[nodiscard]] bool has_room() const noexcept override;
  void fetch(std::uint64_t offset, std::vector<HostSpan> targets, std::stop_token stop,
             FetchDone done) noexcept override;
  [[nodiscard]] Status check_unchanged() noexcept override { return parts_->inner->check_unchanged(); }
  void retire() noexcept override { parts_->inner->retire(); }

 private:
  struct Parts {
    std::shared_ptr<TierThreads> shared;
    std::shared_ptr<Source> inner;
    std::shared_ptr<CacheFile> file;
  };
  class Fetch;

  const std::shared_ptr<const Parts> parts_;
};

}  // namespace streamload
