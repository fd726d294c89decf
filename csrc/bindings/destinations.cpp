// Destinations as nearly all are, contiguous tensors for whole ones of a checkpoint: what a load needs to know of them.
//
// There may be 20,000, and asking each from Python takes most of the time in which a load does not move bytes. What is
// not as plain as that, or wrong in any way, is left to the caller, whose words say what.
#include <array>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "bindings/dlpack_exchange.hpp"
#include "bindings/python.hpp"

using namespace nanobind::literals;

namespace streamload {
namespace {

using nb::dlpack::dltensor;

void append(const nb::list& list, const nb::object& item) {
  if (PyList_Append(list.ptr(), item.ptr()) != 0) throw nb::python_error();
}

// Reads the fields of instances of a dataclass with slots.
class Fields {
 public:
  explicit Fields(nb::handle type) : type_(type) {
    for (std::size_t i = 0; i < kNames.size(); ++i) {
      slots_[i] = nb::getattr(type, kNames[i]);
      getters_[i] = Py_TYPE(slots_[i].ptr())->tp_descr_get;
      if (getters_[i] == nullptr) throw nb::type_error("expected a class with slots");
    }
  }

  enum Name : std::uint8_t { kDtype, kShape, kStart, kEnd, kShard };

  [[nodiscard]] bool are_of(PyObject* record) const { return Py_TYPE(record) == as_type(type_); }
  [[nodiscard]] nb::object get(PyObject* record, Name name) const {
    return checked(getters_[name](slots_[name].ptr(), record, type_.ptr()));
  }
  [[nodiscard]] std::uint64_t number(PyObject* record, Name name) const {
    const std::uint64_t value = PyLong_AsUnsignedLongLong(get(record, name).ptr());
    if (value == UINT64_MAX && PyErr_Occurred() != nullptr) throw nb::python_error();
    return value;
  }
  static PyTypeObject* as_type(nb::handle type) { return reinterpret_cast<PyTypeObject*>(type.ptr()); }

 private:
  static constexpr std::array<const char*, 5> kNames{"dtype", "shape", "start", "end", "shard"};
  nb::handle type_;
  std::array<nb::object, kNames.size()> slots_;
  std::array<descrgetfunc, kNames.size()> getters_{};
};

// What a safetensors dtype is to DLPack; the last one asked for is remembered.
class Dtypes {
 public:
  explicit Dtypes(nb::dict known) : known_(std::move(known)) {}

  [[nodiscard]] bool is(nb::handle name, const nb::dlpack::dtype& dtype) {
    if (name.ptr() != last_.ptr()) find(name);
    return found_ && dtype.code == code_ && dtype.bits == bits_ && dtype.lanes == 1;
  }

 private:
  void find(nb::handle name) {
    PyObject* const pair = PyDict_GetItemWithError(known_.ptr(), name.ptr());
    if (pair == nullptr && PyErr_Occurred() != nullptr) throw nb::python_error();
    last_ = nb::borrow(name);
    found_ = pair != nullptr;
    if (!found_) return;
    code_ = nb::cast<int>(nb::handle(pair)[0]);
    bits_ = nb::cast<int>(nb::handle(pair)[1]);
  }

  nb::dict known_;
  nb::object last_;
  bool found_ = false;
  int code_ = 0;
  int bits_ = 0;
};

// Whether a tensor has a shape, and its elements lie in the order of their indices.
bool lies_as(const dltensor& tensor, nb::handle shape) {
  if (!PyTuple_Check(shape.ptr()) || PyTuple_GET_SIZE(shape.ptr()) != tensor.ndim) return false;
  std::uint64_t step = 1;  // may wrap in a tensor of no elements
  for (int i = tensor.ndim - 1; i >= 0; --i) {
    int beyond = 0;
    const long long extent = PyLong_AsLongLongAndOverflow(PyTuple_GET_ITEM(shape.ptr(), i), &beyond);
    if (extent != tensor.shape[i] || beyond != 0) return false;
    if (tensor.strides != nullptr && extent != 1 && static_cast<std::uint64_t>(tensor.strides[i]) != step) {
      return false;
    }
    step *= static_cast<std::uint64_t>(extent);
  }
  return true;
}

// What goes to one device.
struct Found {
  std::pair<int, int> device;         // kind and number, as in dlpack.h
  std::vector<std::uint64_t> copies;  // seven fields of each, as a Copy has them
  nb::list names;
  nb::list tensors;
};

class Matcher {
 public:
  Matcher(const DlpackExchange& exchange, nb::handle info_type, nb::dict dtypes, const nb::tuple& kinds,
          nb::handle is_neg)
      : exchange_(exchange), fields_(info_type), dtypes_(std::move(dtypes)), kinds_(kinds), is_neg_(is_neg) {}

  // Adds a destination, if it is plain.
  bool add(const nb::object& name, const nb::object& tensor, const nb::object& info) {
    if (!is_known_kind(tensor) || !fields_.are_of(info.ptr())) return false;
    dltensor described;
    if (exchange_.describe(tensor.ptr(), &described) != 0) {
      if (PyErr_Occurred() != nullptr && PyErr_ExceptionMatches(PyExc_Exception) == 0) throw nb::python_error();
      PyErr_Clear();  // the caller asks again, and says it better
      return false;
    }
    const bool reachable = described.device.device_type == nb::device::cpu::value ||
                           described.device.device_type == nb::device::cuda::value;
    const nb::object shape = fields_.get(info.ptr(), Fields::kShape);
    if (!reachable || described.data == nullptr ||
        !dtypes_.is(fields_.get(info.ptr(), Fields::kDtype), described.dtype) || !lies_as(described, shape)) {
      return false;
    }
    const std::uint64_t address = reinterpret_cast<std::uintptr_t>(described.data) + described.byte_offset;
    const std::pair<int, int> device{described.device.device_type, described.device.device_id};
    // `described` points into the tensor, and is not looked at once Python code may have run.
    if (checked(PyObject_CallOneArg(is_neg_.ptr(), tensor.ptr())).ptr() != Py_False) return false;
    const std::array range{fields_.number(info.ptr(), Fields::kShard), fields_.number(info.ptr(), Fields::kStart),
                           fields_.number(info.ptr(), Fields::kEnd)};
    if (range[1] == range[2]) return false;
    Found& found = found_on(device);
    found.copies.insert(found.copies.end(), range.begin(), range.end());
    found.copies.insert(found.copies.end(), {address, 1, 0, 0});
    append(found.names, name);
    append(found.tensors, tensor);
    return true;
  }

  [[nodiscard]] nb::list found() const {
    nb::list out;
    for (const Found& found : found_) {
      const nb::bytes copies(found.copies.data(), found.copies.size() * sizeof(std::uint64_t));
      out.append(nb::make_tuple(found.device.first, found.device.second, copies, found.names, found.tensors));
    }
    return out;
  }

 private:
  [[nodiscard]] bool is_known_kind(const nb::object& tensor) const {
    for (const nb::handle kind : kinds_) {
      if (Py_TYPE(tensor.ptr()) == Fields::as_type(kind)) return true;
    }
    return false;
  }

  Found& found_on(std::pair<int, int> device) {
    for (Found& found : found_) {
      if (found.device == device) return found;
    }
    return found_.emplace_back(Found{device, {}, {}, {}});
  }

  const DlpackExchange& exchange_;
  Fields fields_;
  Dtypes dtypes_;
  const nb::tuple& kinds_;
  nb::handle is_neg_;
  std::vector<Found> found_;
};

nb::tuple match_destinations(nb::handle exchange, const nb::list& destinations, const nb::dict& infos,
                             nb::handle info_type, nb::dict dtypes, const nb::tuple& kinds, nb::handle is_neg) {
  const void* const held = PyCapsule_GetPointer(exchange.ptr(), kDlpackExchangeName);
  if (held == nullptr) throw nb::python_error();
  const DlpackExchange* const table = find_exchange(static_cast<const DlpackExchangeHeader*>(held));
  nb::list rest;
  std::optional<Matcher> matcher;
  if (table != nullptr) matcher.emplace(*table, info_type, std::move(dtypes), kinds, is_neg);
  // Its length is asked for each time: is_neg may be Python, which may do anything.
  for (std::size_t i = 0; i < destinations.size(); ++i) {
    const nb::object pair = destinations[i];
    if (!PyTuple_Check(pair.ptr()) || PyTuple_GET_SIZE(pair.ptr()) != 2) {
      throw nb::type_error("expected pairs of a name and a tensor");
    }
    const nb::object name = nb::borrow(PyTuple_GET_ITEM(pair.ptr(), 0));
    PyObject* const info = PyDict_GetItemWithError(infos.ptr(), name.ptr());
    if (info == nullptr && PyErr_Occurred() != nullptr) throw nb::python_error();
    const nb::object tensor = nb::borrow(PyTuple_GET_ITEM(pair.ptr(), 1));
    if (!matcher || info == nullptr || !matcher->add(name, tensor, nb::borrow(info))) append(rest, pair);
  }
  return nb::make_tuple(matcher ? matcher->found() : nb::list(), rest);
}

}  // namespace

void bind_destinations(nb::module_& m) {
  m.def("match_destinations", &match_destinations, "exchange"_a, "destinations"_a, "infos"_a, "info_type"_a, "dtypes"_a,
        "kinds"_a, "is_neg"_a,
        "What goes to each device, kind and number as in dlpack.h, of destinations that are contiguous tensors for "
        "whole ones: seven unsigned 64-bit numbers to a copy, names, tensors; and all others.");
}

}  // namespace streamload
