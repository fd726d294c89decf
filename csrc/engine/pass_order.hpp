// The order in which a pass is expected to use units, and where in it the consumer is. Not thread-safe.
//
// Passes follow one another without end, so a place in one pass stands for that place in all of them, and the unit
// behind the last one of a pass is the first one of the next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace streamload {

class PassOrder {
 public:
  // Before the first unit. A unit may stand several times, or not at all; there may be none.
  explicit PassOrder(std::vector<std::uint32_t> units) noexcept;

  // The consumer uses a unit: it is now at the next place where that unit stands, and has skipped those in between.
  // A unit that stands nowhere moves nothing.
  void use(std::uint32_t unit) noexcept;
  // The consumer begins a pass: what was left of the last one is skipped.
  void begin_pass() noexcept;
  // Goes on in another order, from the place where the unit used last stands in it.
  void replace(std::vector<std::uint32_t> units) noexcept;

  // How many places a pass has.
  [[nodiscard]] std::size_t size() const noexcept { return units_.size(); }
  // The unit `places` ahead of the consumer, in [1, size()].
  [[nodiscard]] std::uint32_t ahead(std::size_t places) const noexcept { return units_[(at_ + places) % size()]; }
  // How many places ahead a unit stands next, in [1, size()]; size() + 1 where it stands nowhere.
  [[nodiscard]] std::size_t places_to(std::uint32_t unit) const noexcept;

 private:
  [[nodiscard]] std::size_t last() const noexcept { return units_.empty() ? 0 : units_.size() - 1; }

  std::vector<std::uint32_t> units_;
  std::size_t at_ = 0;  // place of the last use; the last place of all before a pass begins
};

}  // namespace streamload
