// One object on its way into a cache: a sparse data file, and a journal that says which of its bytes are there.
//
// Any number of processes, and of CacheFiles in one process, may share the two files. Who is going to fetch a range
// claims it first, so that nobody fetches it twice; a claim ends with its owner, also by kill -9. What was put survives
// the process; after another boot of the machine it is compared with its checksum before it is believed. A range once
// there is never written again. When every byte is there the data file can be published: renamed to its final name.
//
// All members are thread-safe. Nothing throws. Where the file cannot be written it is switched off (broken): what is
// there stays readable, and nothing more is put.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/spans.hpp"
#include "core/status.hpp"
#include "core/unique_fd.hpp"
#include "io/byte_ranges.hpp"
#include "io/cache_journal.hpp"

namespace streamload {

class CacheFile;

// The right to fetch a range. Move-only; gives it back when it is destroyed.
class CacheClaim {
 public:
  CacheClaim() noexcept = default;
  CacheClaim(std::shared_ptr<CacheFile> file, ByteRange range) noexcept : file_(std::move(file)), range_(range) {}
  CacheClaim(CacheClaim&& other) noexcept = default;
  CacheClaim& operator=(CacheClaim&& other) noexcept {
    if (this != &other) {
      release();
      file_ = std::move(other.file_);
      range_ = other.range_;
    }
    return *this;
  }
  CacheClaim(const CacheClaim&) = delete;
  CacheClaim& operator=(const CacheClaim&) = delete;
  ~CacheClaim() { release(); }

  [[nodiscard]] explicit operator bool() const noexcept { return file_ != nullptr; }
  void release() noexcept;

 private:
  std::shared_ptr<CacheFile> file_;
  ByteRange range_;
};

enum class ClaimOutcome : std::uint8_t {
  kClaimed,  // fetch it, put it, release the claim
  kCovered,  // it is there: read it
  kBusy,     // somebody else is fetching a part of it: ask again later
};

class CacheFile : public std::enable_shared_from_this<CacheFile> {
 public:
  struct Settings {
    std::string path;  // of the data file; the journal is beside it, at journal_path(path)
    JournalHeader object;
    std::string publish_path = {};  // where the data file goes by itself once it is complete; empty: nowhere
    BootId boot = this_boot();      // other than the machine's own only in tests
  };

  // Opens the two files, or makes them. What is there of another object is removed. Waits for whoever opens, checks
  // or publishes the same files; where the machine was booted since, reads what is there to check it.
  [[nodiscard]] static Status open(Settings settings, std::shared_ptr<CacheFile>& out) noexcept;

  // Removes both files unless somebody has them open. `removed` tells. Nothing there is no failure.
  [[nodiscard]] static Status remove(const std::string& path, bool& removed) noexcept;

  [[nodiscard]] static std::string journal_path(const std::string& path) { return path + ".journal"; }

  CacheFile(Settings settings, UniqueFd data, UniqueFd journal) noexcept;

  [[nodiscard]] const std::string& path() const noexcept { return settings_.path; }
  [[nodiscard]] std::uint64_t nbytes() const noexcept { return settings_.object.nbytes; }

  // Whether the range is there. Looks at what others have put where it is not known to be.
  [[nodiscard]] bool covers(std::uint64_t offset, std::uint64_t nbytes) noexcept;
  // What of the range is not there, in order.
  [[nodiscard]] std::vector<ByteRange> missing(std::uint64_t offset, std::uint64_t nbytes) noexcept;
  [[nodiscard]] std::uint64_t covered_bytes() noexcept;
  [[nodiscard]] bool complete() noexcept { return covers(0, nbytes()); }

  // Fills `targets` in order with what is there from `offset` on. Blocks. Fails with kReadFailed or kShortRead.
  [[nodiscard]] Status read(std::uint64_t offset, std::span<const HostSpan> targets) noexcept;

  // Never blocks on another's claim. A broken file gives claims, too: they still keep others from the same fetch.
  [[nodiscard]] ClaimOutcome try_claim(std::uint64_t offset, std::uint64_t nbytes, CacheClaim& out) noexcept;

  // Writes what is missing of the range that `parts` hold in order, and says so in the journal. Blocks. Called with a
  // claim of the range in hand. False where the file is broken, before or by this call.
  bool put(std::uint64_t offset, std::span<const ConstHostSpan> parts) noexcept;

  // The error that switched the file off; 0 while it works.
  [[nodiscard]] int broken() const noexcept { return broken_; }

  // Writes a complete data file out, renames it to `target` and removes the journal. With `replace` what is at `target`
  // gives way; else it stays, and the data file is removed. Also well where another process has done it first. Blocks.
  // Fails with kMisused where bytes are missing.
  [[nodiscard]] Status publish(const std::string& target, bool replace) noexcept;
  [[nodiscard]] bool published() noexcept;

  // Whether settle() has something to do. Then it publishes the file, complete now, to `publish_path`; what fails of
  // that is left to whoever opens the object next. Blocks, for long where much is to be written out.
  [[nodiscard]] bool can_settle() noexcept {
    return !settings_.publish_path.empty() && complete() && !published() && broken_ == 0;
  }
  void settle() noexcept {
    if (can_settle()) static_cast<void>(publish(settings_.publish_path, false));
  }

 private:
  friend class CacheClaim;

  [[nodiscard]] Status check_other_boots() noexcept;
  void refresh() noexcept;
  void believe(std::span<const CacheRecord> records, std::uint64_t position) noexcept;
  [[nodiscard]] bool plausible(const CacheRecord& record) const noexcept;
  [[nodiscard]] bool known(ByteRange range) noexcept;
  [[nodiscard]] int write_piece(std::uint64_t offset, std::span<const ConstHostSpan> parts, ByteRange piece) noexcept;
  [[nodiscard]] std::uint32_t crc_of_data(ByteRange range, bool& readable) const noexcept;
  void unclaim(ByteRange range) noexcept;

  const Settings settings_;
  const UniqueFd data_;
  const UniqueFd journal_;
  std::atomic<int> broken_{0};

  std::mutex publishing_;  // serialises publish()
  std::mutex mutex_;       // guards the four below
  ByteRanges covered_;
  ByteRanges claimed_;                          // by this object
  std::uint64_t position_ = first_record_at();  // of the journal, up to which it was read
  bool published_ = false;
};

}  // namespace streamload
