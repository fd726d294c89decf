// The rules of order that a rotation keeps, checked against a record of its own: a debugging aid.
//
// Told of every step before it is taken, in the order of the rotation's lock. A broken rule is a kMisused whose text
// begins "ordering rule broken:"; nothing has happened yet then. Not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

#include "core/status.hpp"

namespace streamload {

// A rule to break on purpose, so that a test can see that somebody notices.
enum class Breach : std::uint8_t {
  kNone,
  kHeldSlot,          // a fill begins while somebody holds the slot
  kUnlandedSlot,      // or while the fill before it is under way
  kWantedUnit,        // what was predicted overwrites what somebody waits for
  kNeededUnit,        // or what is needed sooner
  kForgottenRelease,  // copies begin without waiting for a release
  kStaleNews,         // news of another fill than the slot's are believed
  kEarlyAcquire,      // a unit is acquired before its event is recorded
  kOtherUnit,         // or where another one lies in its slot
  kUnheldRelease,     // a release without a hold
};

class OrderingRules {
 public:
  explicit OrderingRules(std::size_t slots) : slots_(slots) {}

  // `wanted`: somebody waits for what lies in the slot. `needed`: it is needed before the unit that overwrites it.
  [[nodiscard]] Status fill_begins(std::uint32_t slot, std::uint32_t unit, std::uint32_t generation, bool wanted,
                                   bool needed);
  // The copies of the fill wait for so many releases.
  [[nodiscard]] Status copies_begin(std::uint32_t slot, std::size_t waits);
  [[nodiscard]] Status issued(std::uint32_t slot, std::uint32_t generation);
  [[nodiscard]] Status landed(std::uint32_t slot, std::uint32_t generation);

  // `landed`: who acquires needs the bytes themselves, not only the event.
  [[nodiscard]] Status acquired(std::uint32_t slot, std::uint32_t unit, bool landed);
  // `recorded`: behind an event.
  [[nodiscard]] Status released(std::uint32_t slot, std::uint32_t unit, bool recorded);

 private:
  struct Slot {
    bool filled = false;  // or being filled
    std::uint32_t unit = 0;
    std::uint32_t generation = 0;
    bool issued = false;
    bool landed = false;
    std::size_t holds = 0;
    std::size_t releases = 0;  // recorded since the copies of the last fill began
  };

  std::vector<Slot> slots_;
};

}  // namespace streamload
