#include "io/cache_journal.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <optional>
#include <span>

#include "core/crc32c.hpp"
#include "core/unique_fd.hpp"
#include "io/interrupted.hpp"

namespace streamload {
namespace {

constexpr std::uint32_t kVersion = 1;
constexpr std::array<char, 8> kHeaderMark = {'S', 'L', 'c', 'a', 'c', 'h', 'e', '\n'};
constexpr std::array<char, 8> kRecordMark = {'S', 'L', 'r', 'a', 'n', 'g', 'e', '\n'};

// Both kinds of record as they stand in the file, little-endian as every machine this runs on.
struct HeaderBytes {
  std::array<char, 8> mark = kHeaderMark;
  std::uint32_t self_crc = 0;  // of the record with this field 0
  std::uint32_t version = kVersion;
  std::uint64_t nbytes = 0;
  CacheIdentity identity{};
  std::uint64_t spare = 0;
};

struct RecordBytes {
  std::array<char, 8> mark = kRecordMark;
  std::uint32_t self_crc = 0;
  std::uint32_t data_crc = 0;
  std::uint64_t start = 0;
  std::uint64_t end = 0;
  BootId boot{};
  std::array<std::uint64_t, 2> spare{};
};

constexpr std::size_t kRecordBytes = 64;
static_assert(sizeof(HeaderBytes) == kRecordBytes && sizeof(RecordBytes) == kRecordBytes);

template <class Record>
std::uint32_t crc_of(Record record) noexcept {
  record.self_crc = 0;
  return crc32c(0, std::as_bytes(std::span(&record, 1)));
}

template <class Record>
int append(int fd, Record record) noexcept {
  record.self_crc = crc_of(record);
  const ssize_t n = retry_interrupted([&] { return ::write(fd, &record, sizeof record); });
  if (n < 0) return errno;
  return static_cast<std::size_t>(n) == sizeof record ? 0 : ENOSPC;
}

template <class Record>
std::optional<Record> parse(std::span<const std::byte> bytes) noexcept {
  Record record;
  const auto mark = record.mark;
  std::memcpy(&record, bytes.data(), sizeof record);
  if (record.mark != mark || record.self_crc != crc_of(record)) return std::nullopt;
  return record;
}

// As many bytes as there are, at most those of `buffer`.
std::size_t read_at(int fd, std::uint64_t offset, std::span<std::byte> buffer) noexcept {
  std::size_t got = 0;
  while (got < buffer.size()) {
    const auto rest = buffer.subspan(got);
    const ssize_t n =
        retry_interrupted([&] { return ::pread(fd, rest.data(), rest.size(), static_cast<off_t>(offset + got)); });
    if (n <= 0) break;
    got += static_cast<std::size_t>(n);
  }
  return got;
}

int hex_value(char digit) noexcept {
  if (digit >= '0' && digit <= '9') return digit - '0';
  if (digit >= 'a' && digit <= 'f') return digit - 'a' + 10;
  return -1;
}

// Where the first whole record at or behind `from` stands; the length of `bytes` where there is none.
std::size_t find_record(std::span<const std::byte> bytes, std::size_t from) noexcept {
  for (std::size_t at = from; at + kRecordBytes <= bytes.size(); ++at) {
    if (std::memcmp(bytes.data() + at, kRecordMark.data(), kRecordMark.size()) != 0) continue;
    if (parse<RecordBytes>(bytes.subspan(at))) return at;
  }
  return bytes.size();
}

}  // namespace

BootId this_boot() noexcept {
  BootId boot{};
  std::array<std::byte, 36> text{};
  const UniqueFd fd(retry_interrupted([] { return ::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC); }));
  if (!fd || read_at(fd.get(), 0, text) != text.size()) return boot;
  std::size_t digits = 0;
  for (const std::byte letter : text) {
    const int value = hex_value(static_cast<char>(letter));
    if (value < 0 || digits >= 2 * boot.size()) continue;
    boot[digits / 2] = (boot[digits / 2] << 4) | static_cast<std::byte>(value);
    ++digits;
  }
  return boot;
}

int write_header(int fd, const JournalHeader& header) noexcept {
  HeaderBytes bytes;
  bytes.nbytes = header.nbytes;
  bytes.identity = header.identity;
  return append(fd, bytes);
}

int append_record(int fd, const CacheRecord& record) noexcept {
  RecordBytes bytes;
  bytes.data_crc = record.crc;
  bytes.start = record.range.start;
  bytes.end = record.range.end;
  bytes.boot = record.boot;
  return append(fd, bytes);
}

bool has_header(int fd, const JournalHeader& expected) noexcept {
  std::array<std::byte, kRecordBytes> bytes{};
  if (read_at(fd, 0, bytes) != bytes.size()) return false;
  const auto header = parse<HeaderBytes>(bytes);
  return header && header->version == kVersion && JournalHeader{header->nbytes, header->identity} == expected;
}

std::uint64_t first_record_at() noexcept { return kRecordBytes; }

std::vector<CacheRecord> read_records(int fd, std::uint64_t& position) noexcept {
  std::vector<CacheRecord> records;
  std::array<std::byte, 64 * kRecordBytes> buffer;
  for (;;) {
    const std::span<const std::byte> bytes = std::span(buffer).first(read_at(fd, position, buffer));
    std::size_t done = 0;
    for (std::size_t at = find_record(bytes, 0); at < bytes.size(); at = find_record(bytes, done)) {
      if (const auto record = parse<RecordBytes>(bytes.subspan(at))) {
        records.push_back({{record->start, record->end}, record->data_crc, record->boot});
      }
      done = at + kRecordBytes;
    }
    // A torn record at the end may yet become whole; of a buffer full of rubbish all but a record's beginning is left.
    if (done == 0 && bytes.size() == buffer.size()) done = buffer.size() - kRecordBytes;
    position += done;
    if (bytes.size() < buffer.size() || done == 0) return records;
  }
}

}  // namespace streamload
