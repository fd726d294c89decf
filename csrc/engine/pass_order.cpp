#include "engine/pass_order.hpp"

#include <algorithm>
#include <utility>

namespace streamload {

PassOrder::PassOrder(std::vector<std::uint32_t> units) noexcept : units_(std::move(units)), at_(last()) {}

std::size_t PassOrder::places_to(std::uint32_t unit) const noexcept {
  std::size_t places = 1;
  while (places <= size() && ahead(places) != unit) ++places;
  return places;
}

void PassOrder::use(std::uint32_t unit) noexcept {
  if (const std::size_t places = places_to(unit); places <= size()) at_ = (at_ + places) % size();
}

void PassOrder::begin_pass() noexcept { at_ = last(); }

void PassOrder::replace(std::vector<std::uint32_t> units) noexcept {
  const bool between = units_.empty() || at_ == last();
  const std::size_t before = at_;
  const std::uint32_t unit = units_.empty() ? 0 : units_[at_];
  units_ = std::move(units);
  at_ = last();
  if (between || units_.empty()) return;
  // Where it stood, if it stands there still; else where it stands first, or no further than before.
  const auto found = std::find(units_.begin(), units_.end(), unit);
  if (before < size() && units_[before] == unit) {
    at_ = before;
  } else if (found != units_.end()) {
    at_ = static_cast<std::size_t>(found - units_.begin());
  } else {
    at_ = std::min(before, last());
  }
}

}  // namespace streamload
