// Where a read gets its bytes: the one seam between the engine and files, callbacks or anything else.
//
// A source is read by several threads at once. Nothing throws; a failed read names url, offset and length.
// A read is chosen first (choose) and then done: blocking (read, read_scattered), by somebody else's asynchronous
// reader between prepare_direct and finish_direct, or asynchronously by the source itself (fetch).
#pragma once

#include <sys/uio.h>

#include <cerrno>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "core/spans.hpp"
#include "core/status.hpp"

namespace streamload {

// Direct reads want file offsets, lengths and buffers on this grid. 4096 covers every block size that Linux
// file systems ask of O_DIRECT in practice; a file system that wants more refuses, and the read is buffered.
inline constexpr std::size_t kDirectAlignment = 4096;

enum class Route : std::uint8_t { kBuffered = 0, kDirect = 1, kCallback = 2, kRemote = 3 };
inline constexpr std::size_t kRoutes = 4;

// What the page cache held of the bytes of one read when the read was chosen.
enum class CacheState : std::uint8_t { kUnknown = 0, kCached = 1, kUncached = 2 };

struct Choice {
  Route route = Route::kCallback;
  CacheState cache = CacheState::kUnknown;
  bool probed = false;  // judged by sample reads: the kernel would not count
};

// A read on the device's grid that covers a wanted range.
struct DirectRange {
  std::shared_ptr<const void> keep;  // holds fd open
  int fd = -1;
  std::uint64_t offset = 0;  // of the first byte read
  HostSpan target;           // where all the bytes read go
  std::vector<iovec> parts;  // in place of `target`, where they go to several, in order
  std::size_t lead = 0;      // bytes read before the wanted ones
};

// What one fetch took, for statistics.
struct FetchCounts {
  std::uint64_t requests = 0;            // sent, repeated ones included
  std::uint64_t retries = 0;             // of them, those sent because one before had failed
  std::uint64_t resumes = 0;             // of these, those for the bytes that were missing only
  std::uint64_t hedges = 0;              // requests sent beside a slow one
  std::uint64_t throttled = 0;           // answers that said: too many
  std::uint64_t renewals = 0;            // of a URL or credentials that had run out
  std::uint64_t tier_bytes = 0;          // that came from a cache tier instead
  std::uint64_t tier_written_bytes = 0;  // that went into one
  double cpu_seconds = 0;                // of the thread that received them

  FetchCounts& operator+=(const FetchCounts& more) noexcept;
};
// Called once, on any thread.
using FetchDone = std::function<void(Status, const FetchCounts&)>;

class Source {
 public:
  virtual ~Source() = default;
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  [[nodiscard]] virtual const std::string& url() const noexcept = 0;

  // Says how these bytes are best read. May open files; never waits for the bytes themselves.
  [[nodiscard]] virtual Status choose(std::uint64_t /*offset*/, std::size_t /*nbytes*/, Choice& out) noexcept {
    out = Choice{};
    return {};
  }

  // Reads exactly [offset, offset + nbytes) by the given route. On success `out` is the part of `buffer` that holds
  // those bytes (a direct read lands further in) and `choice.route` is the route that was taken after all. `buffer`
  // is kDirectAlignment-aligned and at least nbytes long. Blocks.
  [[nodiscard]] virtual Status read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                                    Choice& choice) noexcept = 0;

  // Whether read_scattered is to be had.
  [[nodiscard]] virtual bool can_scatter() const noexcept { return false; }

  // Reads exactly [offset, offset + sum of targets), buffered, into `targets` in order, with no staging. Blocks.
  [[nodiscard]] virtual Status read_scattered(std::uint64_t /*offset*/,
                                              std::span<const HostSpan> /*targets*/) noexcept {
    return Status::failure(Code::kInvalid, url() + ": this source does not scatter");
  }

  // Fills `out` for an asynchronous direct read of the wanted bytes into `buffer`. False where there is no direct
  // route, or `buffer` is off the grid or too small for the blocks around the bytes: then read() is the way.
  [[nodiscard]] virtual bool prepare_direct(std::uint64_t /*offset*/, std::size_t /*nbytes*/, HostSpan /*buffer*/,
                                            DirectRange& /*out*/) noexcept {
    return false;
  }

  // The same for a read that is scattered over `parts`, in order: `lead` bytes before the wanted ones and what follows
  // them to the end of their blocks included. Offset and parts lie on kDirectAlignment, but for the parts' addresses,
  // which may lie on direct_grid() only.
  [[nodiscard]] virtual bool prepare_scattered(std::uint64_t /*offset*/, std::size_t /*lead*/,
                                               std::span<const iovec> /*parts*/, DirectRange& /*out*/) noexcept {
    return false;
  }

  // Does a read that was prepared, for who has no asynchronous reader. Returns the bytes read, or -errno. Blocks.
  [[nodiscard]] virtual std::int64_t read_prepared(const DirectRange& /*range*/) noexcept { return -EOPNOTSUPP; }

  // Judges what came of it: `result` is the bytes read, or -errno. On success either the wanted bytes are where they
  // were to go (in `out`, if that was one target), or `again` is set and they are to be read with read(), buffered.
  [[nodiscard]] virtual Status finish_direct(const DirectRange& /*range*/, std::uint64_t /*offset*/,
                                             std::size_t /*nbytes*/, std::int64_t /*result*/, ConstHostSpan& /*out*/,
                                             bool& again) noexcept {
    again = true;
    return {};
  }

  // Whether reads are to be fetched. Then read() works too, but keeps its thread waiting.
  [[nodiscard]] virtual bool fetches() const noexcept { return false; }
  // Whether a fetch would begin at once. Takes no lock.
  [[nodiscard]] virtual bool has_room() const noexcept { return true; }
  // Reads exactly [offset, offset + sum of targets) into `targets` in order and then calls `done`, perhaps before it
  // returns. Until then the targets are the source's; they hold anything after a failure. Once `stop` is requested it
  // is done soon, with kCancelled. Never blocks.
  // NOLINTBEGIN(performance-unnecessary-value-param): those that fetch keep all of it
  virtual void fetch(std::uint64_t /*offset*/, std::vector<HostSpan> /*targets*/, std::stop_token /*stop*/,
                     FetchDone done) noexcept {
    done(Status::failure(Code::kInvalid, url() + ": this source does not fetch"), {});
  }
  // NOLINTEND(performance-unnecessary-value-param)

  // The grid in bytes on which a direct read may land straight in a caller's memory: address and file offset must
  // agree modulo it; 4 on most NVMe drives with Linux 6.5. 0: never. Known once a read was chosen.
  [[nodiscard]] virtual std::size_t direct_grid() const noexcept { return 0; }

  // Says whether the source is still the one whose header was read. Called after the reads of a group.
  [[nodiscard]] virtual Status check_unchanged() noexcept { return {}; }

  // Told when nothing more will be read: lets go of descriptors. A later read opens them again.
  virtual void retire() noexcept {}
};

// The read() of a source that fetches. Blocks.
[[nodiscard]] Status fetch_and_wait(Source& source, std::uint64_t offset, HostSpan target) noexcept;

}  // namespace streamload
