// Headers of safetensors files, from text to the records that Python holds.
#include <array>

#include "bindings/python.hpp"
#include "format/header_scan.hpp"

using namespace nanobind::literals;

namespace streamload {
namespace {

class BufferView {
 public:
  explicit BufferView(nb::handle object) {
    if (PyObject_GetBuffer(object.ptr(), &view_, PyBUF_SIMPLE) != 0) throw nb::python_error();
  }
  BufferView(const BufferView&) = delete;
  BufferView& operator=(const BufferView&) = delete;
  ~BufferView() { PyBuffer_Release(&view_); }
  [[nodiscard]] std::string_view text() const {
    return {static_cast<const char*>(view_.buf), static_cast<std::size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

nb::object checked(PyObject* made) {
  if (made == nullptr) throw nb::python_error();
  return nb::steal(made);
}

// The memory may be a mapping that somebody else writes to: looked at once more, it may not be ASCII any longer.
nb::object text_of(std::string_view text) {
  return checked(PyUnicode_DecodeASCII(text.data(), static_cast<Py_ssize_t>(text.size()), "strict"));
}

nb::object shape_of(std::span<const std::uint64_t> lengths) {
  nb::object shape = checked(PyTuple_New(static_cast<Py_ssize_t>(lengths.size())));
  for (std::size_t i = 0; i < lengths.size(); ++i) {
    PyTuple_SET_ITEM(shape.ptr(), static_cast<Py_ssize_t>(i),
                     checked(PyLong_FromUnsignedLongLong(lengths[i])).release().ptr());
  }
  return shape;
}

// Makes instances of a dataclass with slots by setting them: its own __init__ is a call of Python for each.
class Records {
 public:
  explicit Records(nb::handle type) : type_(reinterpret_cast<PyTypeObject*>(type.ptr())) {
    for (std::size_t i = 0; i < kFields.size(); ++i) names_[i] = checked(PyUnicode_InternFromString(kFields[i]));
  }

  nb::object make(const std::array<nb::object, 6>& values) const {
    nb::object record = checked(type_->tp_alloc(type_, 0));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (PyObject_GenericSetAttr(record.ptr(), names_[i].ptr(), values[i].ptr()) != 0) throw nb::python_error();
    }
    return record;
  }

 private:
  static constexpr std::array<const char*, 6> kFields{"name", "dtype", "shape", "start", "end", "shard"};
  PyTypeObject* type_;
  std::array<nb::object, 6> names_;
};

std::vector<DtypeBits> dtypes_of(const nb::tuple& pairs) {
  std::vector<DtypeBits> dtypes;
  for (const nb::handle pair : pairs) {
    dtypes.push_back({nb::cast<const char*>(pair[0]), nb::cast<std::uint64_t>(pair[1])});
  }
  return dtypes;
}

nb::object scan(nb::handle json, std::uint64_t base, std::uint64_t file_nbytes, std::uint64_t shard,
                const nb::tuple& dtype_bits, const nb::type_object& record_type) {
  const BufferView buffer(json);
  const std::vector<DtypeBits> dtypes = dtypes_of(dtype_bits);
  ScannedHeader header;
  if (base > file_nbytes || !scan_header(buffer.text(), file_nbytes - base, dtypes, header)) return nb::none();
  const Records records(record_type);
  const nb::object number = nb::cast(shard);
  nb::object tensors = checked(PyTuple_New(static_cast<Py_ssize_t>(header.tensors.size())));
  nb::object start = nb::cast(base);
  for (std::size_t i = 0; i < header.tensors.size(); ++i) {
    const ScannedTensor& tensor = header.tensors[i];
    const std::span lengths = std::span(header.lengths).subspan(tensor.shape_at, tensor.dimensions);
    nb::object end = nb::cast(base + tensor.end);
    nb::object record = records.make(
        {text_of(tensor.name), nb::borrow(dtype_bits[tensor.dtype][0]), shape_of(lengths), start, end, number});
    PyTuple_SET_ITEM(tensors.ptr(), static_cast<Py_ssize_t>(i), record.release().ptr());
    start = std::move(end);  // where the next one begins
  }
  nb::dict metadata;
  for (const auto& [key, text] : header.metadata) metadata[text_of(key)] = text_of(text);
  return nb::make_tuple(tensors, metadata);
}

}  // namespace

void bind_format(nb::module_& m) {
  m.def("scan_header", &scan, "json"_a, "base"_a, "file_nbytes"_a, "shard"_a, "dtype_bits"_a, "record_type"_a,
        "Tensors and metadata of a header whose JSON is plain and right; None for every other.");
}

}  // namespace streamload
