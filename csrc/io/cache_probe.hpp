// Finds out by sample reads whether a range of a file is in the page cache, for where the kernel will not count.
#pragma once

#include <cstdint>

#include "io/source.hpp"

namespace streamload {

// Reads one byte at up to five places spread over [offset, offset + nbytes); two that agree decide. `fd` is read by
// nobody else and carries POSIX_FADV_RANDOM, so that a sample fetches one page at most and starts no read-ahead. Waits
// for that page only where the file system does not know RWF_NOWAIT. kUnknown where a read fails or nothing is there.
[[nodiscard]] CacheState probe_page_cache(int fd, std::uint64_t offset, std::uint64_t nbytes) noexcept;

}  // namespace streamload
