// Where a read gets its bytes: the one seam between the engine and files, callbacks or anything else.
//
// A source is read by several threads at once. Nothing throws; a failed read names url, offset and length.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "core/spans.hpp"
#include "core/status.hpp"

namespace streamload {

// Direct reads want file offsets, lengths and buffers on this grid. 4096 covers every block size that Linux
// file systems ask of O_DIRECT in practice; a file system that wants more refuses, and the read is buffered.
inline constexpr std::size_t kDirectAlignment = 4096;

enum class Route : std::uint8_t { kBuffered = 0, kDirect = 1, kInPlace = 2, kCallback = 3 };

class Source {
 public:
  virtual ~Source() = default;
  Source() = default;
  Source(const Source&) = delete;
  Source& operator=(const Source&) = delete;

  [[nodiscard]] virtual const std::string& url() const noexcept = 0;

  // Reads exactly [offset, offset + nbytes). On success `out` is the part of `buffer` that holds those bytes
  // (a direct read lands further in) and `route` says how they were read. `buffer` is kDirectAlignment-aligned
  // and at least nbytes long. Blocks.
  [[nodiscard]] virtual Status read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                                    Route& route) noexcept = 0;

  // Reads exactly [offset, offset + sum of targets) into `targets` in order, with no staging. Sets `taken` to
  // false and reads nothing where a staged read is the better route for these bytes. Blocks.
  [[nodiscard]] virtual Status read_in_place(std::uint64_t offset, std::span<const HostSpan> targets,
                                             bool& taken) noexcept {
    static_cast<void>(offset);
    static_cast<void>(targets);
    taken = false;
    return {};
  }

  // Says whether the source is still the one whose header was read. Called after the reads of a group.
  [[nodiscard]] virtual Status check_unchanged() noexcept { return {}; }

  // Told when nothing more will be read: lets go of descriptors. A later read opens them again.
  virtual void retire() noexcept {}
};

}  // namespace streamload
