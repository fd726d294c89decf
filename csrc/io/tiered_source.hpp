// A source before another that fetches: what a cache file holds comes from there, the rest is fetched and then held.
//
//   fetch → is it there? read it
//           else claim it, let the inner source fetch it into the targets, put it into the file, done
//           else somebody is fetching it: look again a little later
//
// No thread of the load or of the inner source ever waits for a file or for a claim: only the range itself does.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "core/task_threads.hpp"
#include "io/cache_file.hpp"
#include "io/source.hpp"

namespace streamload {

// What the tiered sources of a process share. Thread-safe.
class TierThreads {
 public:
  TierThreads();
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
    TaskThreads writing{"streamload-tier", 2};
    TaskThreads publishing{"streamload-tier", 1, kNice};
  };

  const pid_t owner_;  // a forked child has none of the threads
  std::unique_ptr<Threads> threads_ = std::make_unique<Threads>();
  std::atomic<std::size_t> looking_{0};  // fetches that wait for others' claims
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
