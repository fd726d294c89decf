// What the tests of reads share: an aligned buffer, the check against the pattern, and a read as the engine does one.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>

#include "io/file_source.hpp"
#include "scratch.hpp"

namespace streamload {

struct Room {
  alignas(kDirectAlignment) std::byte bytes[256 << 10];
  HostSpan span() { return {bytes, sizeof bytes}; }
};

inline bool same(ConstHostSpan got, std::uint64_t first) {
  const auto want = pattern(first, got.size());
  return std::equal(got.begin(), got.end(), want.begin());
}

inline std::shared_ptr<Source> open_file(const ScratchFile& file, std::optional<bool> direct) {
  std::shared_ptr<Source> source;
  throw_if_error(FileSource::open(file.path(), file.stamp(), direct, source));
  return source;
}

// What the engine does: ask for the route, then read by it.
inline Status choose_and_read(Source& source, std::uint64_t offset, std::size_t nbytes, HostSpan buffer,
                              ConstHostSpan& out, Choice& choice) {
  if (Status status = source.choose(offset, nbytes, choice); !status.ok()) return status;
  return source.read(offset, nbytes, buffer, out, choice);
}
inline Status choose_and_read(Source& source, std::uint64_t offset, std::size_t nbytes, HostSpan buffer,
                              ConstHostSpan& out) {
  Choice choice;
  return choose_and_read(source, offset, nbytes, buffer, out, choice);
}

}  // namespace streamload
