// What the bindings share: the only files that include Python, one to one over the engine's classes.
//
// Rules of this border: what can block releases the GIL and lets signal handlers run; objects belong to the process
// that made them (core/process_bound.hpp); a failure crosses as NativeError with its fields.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <utility>

#include "core/park_on_unwind.hpp"
#include "core/process_bound.hpp"
#include "device/device.hpp"
#include "io/source.hpp"

namespace streamload {

namespace nb = nanobind;

inline bool finalizing() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// A new object of a C call, or the error that it set.
inline nb::object checked(PyObject* made) {
  if (made == nullptr) throw nb::python_error();
  return nb::steal(made);
}

// Releases the GIL while it lives.
class GilRelease {
 public:
  GilRelease() noexcept : state_(PyEval_SaveThread()) {}
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;
  ~GilRelease() {
    park_if_unwound([this] { PyEval_RestoreThread(state_); });
  }

 private:
  PyThreadState* state_;
};

// Runs a call that may block without the GIL, and raises what it failed with.
template <class Call>
void run_released(Call&& call) {
  Status status;
  {
    const GilRelease released;
    status = call();
  }
  throw_if_error(std::move(status));
}

template <class T>
using Bound = ProcessBound<T, GilRelease>;

struct PyDevice {
  Bound<Device> device;
};
struct PySource {
  std::shared_ptr<Source> source;

  PySource() = default;
  explicit PySource(std::shared_ptr<Source> opened) : source(std::move(opened)) {}
  PySource(PySource&&) noexcept = default;
  PySource& operator=(PySource&&) noexcept = default;
  ~PySource() {
    if (!source) return;
    const GilRelease released;  // its client may end with it, and wait for threads that want the GIL
    source.reset();
  }
};

// A record that for_each_field knows, as a dict.
template <class Record>
nb::dict dict_of(const Record& record) {
  nb::dict out;
  for_each_field(record, [&](const char* name, const auto& value) { out[name] = value; });
  return out;
}

// Each binds the classes of one file.
void bind_errors(nb::module_& m);
void bind_memory(nb::module_& m);
void bind_devices(nb::module_& m);
void bind_sources(nb::module_& m);
void bind_cache(nb::module_& m);
void bind_engine(nb::module_& m);
void bind_rotation(nb::module_& m);
void bind_http(nb::module_& m);
void bind_format(nb::module_& m);
void bind_plan(nb::module_& m);
void bind_destinations(nb::module_& m);

}  // namespace streamload
