// The ceiling that fetches are measured against: plain sockets, no library, no policy, every byte thrown away.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "core/status.hpp"

namespace streamload {

using ByteRange = std::pair<std::uint64_t, std::uint64_t>;  // offset, nbytes

struct RawAddress {
  std::string host;  // a numeric address, or a name of this machine
  std::uint16_t port = 80;
  std::string path;
};

// Reads all ranges over `connections` connections, each on a thread of its own, into one reused buffer for each,
// `repeats` times; seconds and processor seconds of each. Plain HTTP. Blocks.
[[nodiscard]] Status measure_raw_http(const RawAddress& address, const std::vector<ByteRange>& ranges,
                                      std::size_t connections, int repeats,
                                      std::vector<std::pair<double, double>>& seconds);

}  // namespace streamload
