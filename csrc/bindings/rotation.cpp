// Rotations: units that take turns in slots of device memory.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <tuple>

#include "bindings/engine.hpp"

using namespace nanobind::literals;

namespace streamload {
namespace {

struct PyRotation {
  nb::object keep_alive;           // declared first: destroyed after the rotation has ended
  std::vector<nb::object> owners;  // of page-locked memory
  Bound<Rotation> rotation;

  PyRotation(nb::object owner, std::shared_ptr<Rotation> started)
      : keep_alive(std::move(owner)), rotation(std::move(started)) {}
  PyRotation(PyRotation&&) noexcept = default;
  ~PyRotation() {
    if (!rotation.holds_here() || !rotation.get().runs_here()) return;
    // A Python source let go of the rotation that is reading it: its thread cannot wait for itself, so all of it stays.
    rotation.get().cancel();
    rotation.leak();
    static_cast<void>(keep_alive.release());
    for (nb::object& memory : owners) static_cast<void>(memory.release());
  }
};

using FlatUnit = std::tuple<FlatArray, FlatArray, FlatArray, FlatArray>;  // reads, copies, sums, expected
using AddressAndSize = std::pair<std::uintptr_t, std::size_t>;

PyRotation rotate(const PyEngine& engine, const std::vector<FlatUnit>& units,
                  const std::vector<const PySource*>& sources, std::vector<std::uint32_t> slot_of,
                  const std::vector<AddressAndSize>& slots, std::vector<std::uint32_t> order,
                  std::optional<std::uintptr_t> after_stream, nb::object keep_alive, std::uint64_t debug_seed) {
  CopyEngine& target = engine.engine.get();
  Rotation::Setup setup;
  setup.slot_of = std::move(slot_of);
  for (const auto& [address, nbytes] : slots) setup.slots.push_back({address, nbytes});
  setup.order = std::move(order);
  setup.sources = share(sources);
  setup.after = view_of(after_stream);
  setup.debug_seed = debug_seed;
  std::shared_ptr<Rotation> rotation;
  run_released([&] {
    for (const auto& [reads, copies, sums, expected] : units) {
      const FlatPlan flat{span_of(reads), span_of(copies), span_of(sums), span_of(expected), 1};
      if (Status status = parse_plan(flat, setup.sources.size(), engine.chunk_bytes, setup.units.emplace_back());
          !status.ok()) {
        return status;
      }
    }
    return target.rotate(std::move(setup), rotation);
  });
  return {std::move(keep_alive), std::move(rotation)};
}

void acquire(const PyRotation& self, std::uint32_t unit, std::optional<std::uintptr_t> stream) {
  Rotation& rotation = self.rotation.get();
  Rotation::Want want;  // withdrawn where a signal's handler raises
  run_released([&] { return rotation.want(unit, want); });
  wait_with_signals({}, [&](Rotation::Clock::duration patience, bool& ready) {
    return rotation.acquire(want, view_of(stream), patience, ready);
  });
}

void keep_on_host(PyRotation& self, std::uint32_t unit, const FlatArray& copies, nb::object owner) {
  constexpr std::size_t kNumbersPerCopyFromHost = 3;
  if (copies.size() % kNumbersPerCopyFromHost != 0) {
    throw_if_error(Status::failure(Code::kInvalid, "copies take 3 numbers each"));
  }
  std::vector<HostCopy> parsed;
  for (const std::uint64_t* row = copies.data(); row != copies.data() + copies.size(); row += kNumbersPerCopyFromHost) {
    // NOLINTNEXTLINE(performance-no-int-to-ptr): an address of the caller's memory
    parsed.push_back({reinterpret_cast<const std::byte*>(row[0]), DeviceSpan{row[1], row[2]}});
  }
  self.owners.push_back(std::move(owner));  // first: the next fill may read it at once
  throw_if_error(self.rotation.get().keep_on_host(unit, parsed));
}

void close_rotation(PyRotation& self) {
  if (!self.rotation.here()) return;  // a forked child has nothing to close
  {
    const GilRelease released;
    self.rotation.get().close();
  }
  if (self.rotation.get().runs_here()) return;
  self.keep_alive.reset();  // every copy has landed
  std::vector<nb::object>().swap(self.owners);
}

}  // namespace

void bind_rotation(nb::module_& m) {
  nb::class_<PyRotation>(m, "Rotation", "Units that take turns in slots of device memory.")
      .def_prop_ro("unit_count", [](const PyRotation& self) { return self.rotation.get().unit_count(); })
      .def("acquire", &acquire, "unit"_a, "stream"_a.none())
      .def(
          "release",
          [](const PyRotation& self, std::uint32_t unit, std::optional<std::uintptr_t> stream) {
            run_released([&] { return self.rotation.get().release(unit, view_of(stream)); });
          },
          "unit"_a, "stream"_a.none())
      .def("begin_pass", [](const PyRotation& self) { self.rotation.get().begin_pass(); })
      .def(
          "set_order",
          [](const PyRotation& self, std::vector<std::uint32_t> order) {
            throw_if_error(self.rotation.get().set_order(std::move(order)));
          },
          "order"_a)
      .def("keep_on_host", &keep_on_host, "unit"_a, "copies"_a, "owner"_a)
      .def("stats", [](const PyRotation& self) { return dict_of(self.rotation.get().stats()); })
      .def(
          "cancel",
          [](const PyRotation& self, bool abandon) {
            if (self.rotation.here()) abandon ? self.rotation.get().abandon() : self.rotation.get().cancel();
          },
          "abandon"_a = false)
      .def("close", &close_rotation);
  m.def("rotate", &rotate, "engine"_a, "units"_a, "sources"_a, "slot_of"_a, "slots"_a, "order"_a,
        "after_stream"_a.none(), "keep_alive"_a, "debug_seed"_a = 0,
        "Starts a rotation. Each unit: the arrays of a plan of one group: reads, copies, sums, expected.");
}

}  // namespace streamload
