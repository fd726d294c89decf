#include "engine/ordering_rules.hpp"

#include <string>
#include <utility>

namespace streamload {
namespace {

Status broken(std::uint32_t slot, const std::string& what) {
  return Status::failure(Code::kMisused, "ordering rule broken: slot " + std::to_string(slot) + ": " + what);
}

std::string named(std::uint32_t unit) { return "unit " + std::to_string(unit); }

}  // namespace

Status OrderingRules::fill_begins(std::uint32_t index, std::uint32_t unit, std::uint32_t generation, bool wanted,
                                  bool needed) {
  Slot& slot = slots_[index];
  const std::string fill = "the fill with " + named(unit) + " begins while ";
  if (slot.holds > 0) return broken(index, fill + named(slot.unit) + " is held");
  if (slot.filled && !slot.landed) return broken(index, fill + "that with " + named(slot.unit) + " is under way");
  if (slot.filled && wanted) return broken(index, fill + "somebody waits for " + named(slot.unit));
  if (slot.filled && needed) return broken(index, fill + named(slot.unit) + " is needed sooner");
  if (generation != slot.generation + 1) return broken(index, fill + "another one was expected");
  slot = Slot{true, unit, generation, false, false, 0, slot.releases};
  return {};
}

Status OrderingRules::copies_begin(std::uint32_t index, std::size_t waits) {
  Slot& slot = slots_[index];
  const std::size_t releases = std::exchange(slot.releases, 0);
  if (waits == releases) return {};
  return broken(index, "the copies of " + named(slot.unit) + " wait for " + std::to_string(waits) + " of " +
                           std::to_string(releases) + " releases");
}

Status OrderingRules::issued(std::uint32_t index, std::uint32_t generation) {
  Slot& slot = slots_[index];
  if (generation != slot.generation || slot.landed) return broken(index, "news of a fill that is over");
  slot.issued = true;
  return {};
}

Status OrderingRules::landed(std::uint32_t index, std::uint32_t generation) {
  Slot& slot = slots_[index];
  if (generation != slot.generation || slot.landed) return broken(index, "news of a fill that is over");
  slot.landed = true;
  return {};
}

Status OrderingRules::acquired(std::uint32_t index, std::uint32_t unit, bool landed) {
  Slot& slot = slots_[index];
  if (!slot.filled || slot.unit != unit) return broken(index, named(unit) + " is acquired and not there");
  if (landed && !slot.landed) return broken(index, named(unit) + " is acquired before its bytes have landed");
  if (!slot.issued && !slot.landed) {
    return broken(index, named(unit) + " is acquired before its event is recorded: nobody would wait for it");
  }
  ++slot.holds;
  return {};
}

Status OrderingRules::released(std::uint32_t index, std::uint32_t unit, bool recorded) {
  Slot& slot = slots_[index];
  if (slot.holds == 0) return broken(index, named(unit) + " is released and nobody holds it");
  if (slot.unit != unit) return broken(index, named(unit) + " was overwritten while it was held");
  --slot.holds;
  slot.releases += recorded ? 1 : 0;
  return {};
}

}  // namespace streamload
