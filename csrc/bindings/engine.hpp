// What the bindings of tickets and rotations share.
#pragma once

#include <nanobind/ndarray.h>

#include <chrono>
#include <optional>
#include <span>
#include <vector>

#include "bindings/python.hpp"
#include "core/interruptible_wait.hpp"
#include "engine/copy_engine.hpp"

namespace streamload {

struct PyEngine {
  Bound<CopyEngine> engine;
  std::size_t chunk_bytes;
};

using FlatArray = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

inline std::span<const std::uint64_t> span_of(const FlatArray& array) { return {array.data(), array.size()}; }

inline std::optional<StreamView> view_of(std::optional<std::uintptr_t> stream) {
  return stream ? std::optional(StreamView{*stream}) : std::nullopt;
}

inline std::vector<std::shared_ptr<Source>> share(const std::vector<const PySource*>& sources) {
  std::vector<std::shared_ptr<Source>> shared;
  shared.reserve(sources.size());
  for (const PySource* source : sources) {
    if (source == nullptr) throw nb::type_error("sources: expected a Source, got None");
    shared.push_back(source->source);
  }
  return shared;
}

// Waits without the GIL until ready or until `timeout` seconds are over; Python's signal handlers run in between.
template <class Wait>
bool wait_with_signals(std::optional<double> timeout, Wait&& wait) {
  using Clock = std::chrono::steady_clock;
  return wait_in_slices(
      timeout, [&](Clock::duration patience, bool& ready) { run_released([&] { return wait(patience, ready); }); },
      [] {
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
      });
}

}  // namespace streamload
