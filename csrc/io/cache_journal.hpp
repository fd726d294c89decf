// The journal of a cache file: which bytes of the data file beside it are there.
//
// A file of 64-byte records that is only ever appended to: a header, then one record for each range that was written.
// Each carries a checksum of itself, so that a torn or foreign record is never believed, and where one is torn the
// reader finds the next by itself. Functions are thread-safe: they share nothing but the file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/status.hpp"
#include "io/byte_ranges.hpp"

namespace streamload {

using BootId = std::array<std::byte, 16>;         // of the kernel's run; all zero: not known
using CacheIdentity = std::array<std::byte, 32>;  // of the object: a digest of its name, version and length

// One range of the data file that holds what was fetched.
struct CacheRecord {
  ByteRange range;
  std::uint32_t crc = 0;  // CRC-32C of its bytes
  BootId boot{};          // under which it was written
};

struct JournalHeader {
  std::uint64_t nbytes = 0;  // of the object
  CacheIdentity identity{};

  [[nodiscard]] bool operator==(const JournalHeader&) const noexcept = default;
};

// Returns the id of the running kernel's boot (random(4)), all zero where it cannot be read.
[[nodiscard]] BootId this_boot() noexcept;

// Appends. Returns 0 or the error; a short write, which leaves a torn record, is ENOSPC.
[[nodiscard]] int write_header(int fd, const JournalHeader& header) noexcept;
[[nodiscard]] int append_record(int fd, const CacheRecord& record) noexcept;

// Whether the journal begins with a header of this format that says the same.
[[nodiscard]] bool has_header(int fd, const JournalHeader& expected) noexcept;

// Where the first record behind the header stands.
[[nodiscard]] std::uint64_t first_record_at() noexcept;

// Reads the records from `position` on and moves it behind the last whole one. What cannot be read is not there.
[[nodiscard]] std::vector<CacheRecord> read_records(int fd, std::uint64_t& position) noexcept;

}  // namespace streamload
