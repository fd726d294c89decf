// System calls that fail on demand: the linker's --wrap puts faulty_calls.cpp between the program and the C library.
//
// Linked into the tests named test_faulty_*.cpp only (csrc/CMakeLists.txt). Nothing fails but while a `Faults` lives;
// the production code has no seam for it. Calls from any thread are judged, one at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string_view>

namespace streamload::faulty {

struct Call {
  std::string_view name;  // "open", "pread", "cachestat", "io_uring_enter", ...
  std::size_t index = 0;  // counted since the Faults were made
  long detail = 0;        // flags of open and preadv2
};

// What becomes of a call: it fails with `error`; or a read gives only its first `most` bytes and spoils the others; or
// fstatfs tells of another file system; or statx and preadv are those of a drive that direct reads write to any memory
// on a grid of `memory_grid` bytes for. As given, it goes through.
struct Verdict {
  int error = 0;
  std::optional<std::size_t> most;
  std::optional<long> file_system;
  std::optional<std::uint32_t> memory_grid = {};
};

using Judge = std::function<Verdict(const Call&)>;

class Faults {
 public:
  explicit Faults(Judge judge);
  Faults(const Faults&) = delete;
  Faults& operator=(const Faults&) = delete;
  ~Faults();

  [[nodiscard]] std::size_t calls() const;
};

// The call of that index fails, once.
inline Judge fail_at(std::size_t index, int error) {
  return [=](const Call& call) { return Verdict{call.index == index ? error : 0, {}, {}}; };
}

// Every call of that name fails.
inline Judge fail_all(std::string_view name, int error) {
  return [=](const Call& call) { return Verdict{call.name == name ? error : 0, {}, {}}; };
}

}  // namespace streamload::faulty
