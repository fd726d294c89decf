// What the page cache holds of a range of a file, by cachestat(2) (Linux 6.5).
#pragma once

#include <cstdint>

#include "io/source.hpp"

namespace streamload {

// kCached where the cache holds nine tenths of the pages of [offset, offset + nbytes) or more, of those below
// `file_bytes`. kUnknown where the kernel does not say: before 6.5, or EPERM for a file of another owner that this
// process may not write.
[[nodiscard]] CacheState page_cache_state(int fd, std::uint64_t offset, std::uint64_t nbytes,
                                          std::uint64_t file_bytes) noexcept;

}  // namespace streamload
