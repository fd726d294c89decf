// Headers and indices of checkpoints, from text to the records that Python holds.
#include <algorithm>
#include <array>

#include "bindings/python.hpp"
#include "format/header_scan.hpp"
#include "format/index_scan.hpp"

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

// The memory may be a mapping that somebody else writes to: looked at once more, it may not be ASCII any longer.
nb::object text_of(std::string_view text) {
  return checked(PyUnicode_DecodeASCII(text.data(), static_cast<Py_ssize_t>(text.size()), "strict"));
}

// Shapes as tuples; the few that a model's layers share are made once.
class Shapes {
 public:
  nb::object of(std::span<const std::uint64_t> lengths) {
    for (const Known& known : known_) {
      if (known.shape.is_valid() && std::ranges::equal(known.lengths, lengths)) return known.shape;
    }
    Known& made = known_[next_++ % known_.size()];
    made = {lengths, checked(PyTuple_New(static_cast<Py_ssize_t>(lengths.size())))};
    for (std::size_t i = 0; i < lengths.size(); ++i) {
      PyTuple_SET_ITEM(made.shape.ptr(), static_cast<Py_ssize_t>(i),
                       checked(PyLong_FromUnsignedLongLong(lengths[i])).release().ptr());
    }
    return made.shape;
  }

 private:
  struct Known {
    std::span<const std::uint64_t> lengths;
    nb::object shape;
  };
  std::array<Known, 4> known_;
  std::size_t next_ = 0;
};

// Makes instances of a dataclass with slots by setting them: its own __init__ is a call of Python for each.
class Records {
 public:
  explicit Records(nb::handle type) : type_(reinterpret_cast<PyTypeObject*>(type.ptr())) {
    for (std::size_t i = 0; i < kFields.size(); ++i) {
      slots_[i] = nb::getattr(type, kFields[i]);
      setters_[i] = Py_TYPE(slots_[i].ptr())->tp_descr_set;
      if (setters_[i] == nullptr) throw nb::type_error("expected a class with slots");
    }
  }

  [[nodiscard]] nb::object make(const std::array<nb::handle, 6>& values) const {
    nb::object record = checked(type_->tp_alloc(type_, 0));
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (setters_[i](slots_[i].ptr(), record.ptr(), values[i].ptr()) != 0) throw nb::python_error();
    }
    return record;
  }

 private:
  static constexpr std::array<const char*, 6> kFields{"name", "dtype", "shape", "start", "end", "shard"};
  PyTypeObject* type_;
  std::array<nb::object, 6> slots_;
  std::array<descrsetfunc, 6> setters_{};
};

void put(const nb::dict& into, const nb::object& key, const nb::object& value) {
  if (PyDict_SetItem(into.ptr(), key.ptr(), value.ptr()) != 0) throw nb::python_error();
}

std::vector<DtypeBits> dtypes_of(const nb::tuple& pairs) {
  std::vector<DtypeBits> dtypes;
  for (const nb::handle pair : pairs) {
    dtypes.push_back({nb::cast<const char*>(pair[0]), nb::cast<std::uint64_t>(pair[1])});
  }
  return dtypes;
}

nb::object header(nb::handle json, std::uint64_t base, std::uint64_t file_nbytes, std::uint64_t shard,
                  const nb::tuple& dtype_bits, const nb::type_object& record_type) {
  const BufferView buffer(json);
  const std::vector<DtypeBits> dtypes = dtypes_of(dtype_bits);
  ScannedHeader header;
  if (base > file_nbytes || !scan_header(buffer.text(), file_nbytes - base, dtypes, header)) return nb::none();
  const Records records(record_type);
  Shapes shapes;
  const nb::object number = nb::cast(shard);
  nb::dict tensors;
  nb::object start = nb::cast(base);
  for (const ScannedTensor& tensor : header.tensors) {
    const nb::object name = text_of(tensor.name);
    const nb::object shape = shapes.of(std::span(header.lengths).subspan(tensor.shape_at, tensor.dimensions));
    nb::object end = nb::cast(base + tensor.end);
    put(tensors, name, records.make({name, dtype_bits[tensor.dtype][0], shape, start, end, number}));
    start = std::move(end);  // where the next one begins
  }
  nb::dict metadata;
  for (const auto& [key, text] : header.metadata) put(metadata, text_of(key), text_of(text));
  const bool different = tensors.size() == header.tensors.size() && metadata.size() == header.metadata.size();
  return different ? nb::object(nb::make_tuple(tensors, metadata)) : nb::none();
}

nb::object index(nb::handle json) {
  const BufferView buffer(json);
  ScannedIndex index;
  if (!scan_index(buffer.text(), index)) return nb::none();
  nb::dict weight_map;
  nb::dict shards;  // each text once, whatever tensors it is said of
  std::string_view last;
  nb::object shard;
  for (const auto& [name, text] : index.weight_map) {
    if (!shard.is_valid() || text != last) {
      shard = text_of(text);
      shard = nb::borrow(PyDict_SetDefault(shards.ptr(), shard.ptr(), shard.ptr()));
      if (!shard.is_valid()) throw nb::python_error();
      last = text;
    }
    put(weight_map, text_of(name), shard);
  }
  nb::dict metadata;
  for (const auto& [key, value] : index.metadata) {
    const auto* number = std::get_if<std::uint64_t>(&value);
    put(metadata, text_of(key), number != nullptr ? nb::cast(*number) : text_of(std::get<std::string_view>(value)));
  }
  const bool different = weight_map.size() == index.weight_map.size() && metadata.size() == index.metadata.size();
  return different ? nb::object(nb::make_tuple(weight_map, metadata)) : nb::none();
}

}  // namespace

void bind_format(nb::module_& m) {
  m.def("scan_header", &header, "json"_a, "base"_a, "file_nbytes"_a, "shard"_a, "dtype_bits"_a, "record_type"_a,
        "Tensors by name and metadata of a header whose JSON is plain and right; None for every other.");
  m.def("scan_index", &index, "json"_a,
        "Names of shards by tensor and metadata of an index whose JSON is plain and right; None for every other.");
}

}  // namespace streamload
