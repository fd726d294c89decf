// Memory to measure with: every page touched, on huge pages from 2 MiB on where the system grants them.
//
// On small pages a copy's rate hangs on which ones a process got (docs/decisions/2026-11-28-bench-memory.md). From the
// heap, so that the sanitizers see its ends.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace streamload {

struct FreeMemory {
  void operator()(std::byte* memory) const noexcept { std::free(memory); }  // NOLINT(cppcoreguidelines-no-malloc)
};

using TouchedMemory = std::unique_ptr<std::byte, FreeMemory>;

// Null where there is none.
inline TouchedMemory touched_memory(std::size_t nbytes, std::byte value) noexcept {
  constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;
  constexpr std::size_t kCacheLineBytes = 64;
  const bool huge = nbytes >= kHugePageBytes;
  void* room = nullptr;
  if (::posix_memalign(&room, huge ? kHugePageBytes : kCacheLineBytes, nbytes) != 0) return {};
  TouchedMemory memory(static_cast<std::byte*>(room));
  // Whole pages of it, for what lies behind is the heap's. Only advice: where it is refused, small pages do.
  if (huge) ::madvise(memory.get(), nbytes / kHugePageBytes * kHugePageBytes, MADV_HUGEPAGE);
  std::memset(memory.get(), std::to_integer<int>(value), nbytes);
  return memory;
}

}  // namespace streamload
