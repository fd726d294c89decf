// Ranges that a profiler shows (NVTX 3, as NVIDIA Nsight Systems records it): what the native threads do, with bytes.
//
// All are in the domain "streamload". A range's name says what is done, its payload for how many bytes, its category
// for which group of the plan: category n + 1 is "group n". Where no profiler was attached when the process first
// asked, and where the core was built without NVTX's headers, a range is one call that answers "no". Thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace streamload {

enum class RangeKind : std::uint8_t {
  kRead,  // bytes come into host memory
  kCopy,  // copies are put on the stream
  kLand,  // the lander waits for copies that are under way
  kWait,  // somebody waits for a group
};

[[nodiscard]] bool ranges_built() noexcept;   // whether the core has them at all
[[nodiscard]] bool ranges_wanted() noexcept;  // whether a profiler listens
// Gives the categories of so many groups their names, if a profiler listens.
void name_groups(std::uint32_t count) noexcept;

// What one thread does from here to the end of the scope. Ranges of a thread lie within each other.
class Range {
 public:
  Range(RangeKind kind, std::uint32_t group, std::size_t nbytes) noexcept : pushed_(ranges_wanted()) {
    if (pushed_) push(kind, group, nbytes);
  }
  Range(const Range&) = delete;
  Range& operator=(const Range&) = delete;
  ~Range() {
    if (pushed_) pop();
  }

 private:
  static void push(RangeKind kind, std::uint32_t group, std::size_t nbytes) noexcept;
  static void pop() noexcept;

  const bool pushed_;
};

// What is under way while threads do something else, and may end on another one.
class RangeUnderWay {
 public:
  RangeUnderWay() noexcept = default;
  RangeUnderWay(RangeKind kind, std::uint32_t group, std::size_t nbytes) noexcept : open_(ranges_wanted()) {
    if (open_) id_ = start(kind, group, nbytes);
  }
  RangeUnderWay(RangeUnderWay&& other) noexcept : open_(std::exchange(other.open_, false)), id_(other.id_) {}
  RangeUnderWay& operator=(RangeUnderWay&& other) noexcept {
    end();
    open_ = std::exchange(other.open_, false);
    id_ = other.id_;
    return *this;
  }
  ~RangeUnderWay() { end(); }

  void end() noexcept {  // harmless when repeated
    if (std::exchange(open_, false)) stop(id_);
  }

 private:
  static std::uint64_t start(RangeKind kind, std::uint32_t group, std::size_t nbytes) noexcept;
  static void stop(std::uint64_t id) noexcept;

  bool open_ = false;
  std::uint64_t id_ = 0;
};

}  // namespace streamload
