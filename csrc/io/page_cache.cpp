#include "io/page_cache.hpp"

#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>

namespace streamload {
namespace {

// A wrong choice costs 4–6× either way; below nine tenths the missing pages are fetched one by one.
constexpr std::uint64_t kCachedTenths = 9;

// Number and layout from include/uapi/asm-generic/unistd.h and uapi/linux/mman.h, Linux 6.5.
constexpr long kSysCachestat = 451;
struct CachestatRange {
  std::uint64_t offset;
  std::uint64_t nbytes;
};
struct Cachestat {
  std::uint64_t cached;
  std::uint64_t dirty;
  std::uint64_t writeback;
  std::uint64_t evicted;
  std::uint64_t recently_evicted;
};

}  // namespace

CacheState page_cache_state(int fd, std::uint64_t offset, std::uint64_t nbytes, std::uint64_t file_bytes) noexcept {
  const std::uint64_t end = std::min(offset + nbytes, file_bytes);
  if (offset >= end) return CacheState::kUnknown;  // a range of no length would mean "to the end" to the kernel
  const CachestatRange range{offset, end - offset};
  Cachestat found{};
  if (::syscall(kSysCachestat, fd, &range, &found, 0U) != 0) return CacheState::kUnknown;
  // The kernel counts in its own pages, which are 16 or 64 KiB on some machines.
  static const auto page_bytes = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t pages = (end - 1) / page_bytes - offset / page_bytes + 1;
  return found.cached * 10 >= pages * kCachedTenths ? CacheState::kCached : CacheState::kUncached;
}

}  // namespace streamload
