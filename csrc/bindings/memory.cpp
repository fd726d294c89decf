// Memory and tensors over it, checksums, and the failures of everything native.
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <vector>

#include "bindings/python.hpp"
#include "core/crc32c.hpp"
#include "core/host_block.hpp"

using namespace nanobind::literals;

namespace streamload {
namespace {

nb::ndarray<> export_tensor(std::uintptr_t address, const nb::tuple& shape, int type_code, int bits, int device_type,
                            int device_id, nb::handle owner) {
  std::vector<std::size_t> extents;
  extents.reserve(shape.size());
  for (const nb::handle extent : shape) extents.push_back(nb::cast<std::size_t>(extent));
  const nb::dlpack::dtype dtype{static_cast<std::uint8_t>(type_code), static_cast<std::uint8_t>(bits), 1};
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address that torch or a mapping handed out, wrapped at once
  auto* const data = reinterpret_cast<std::uint8_t*>(address);
  return {data, extents.size(), extents.data(), owner, nullptr, dtype, device_type, device_id};
}

std::vector<HostBlock> make_host_blocks(const std::vector<std::size_t>& sizes) {
  std::vector<HostBlock> blocks;
  if (Status status = HostBlock::make_all(sizes, blocks); !status.ok()) {
    PyErr_SetString(PyExc_MemoryError, status.text.c_str());
    throw nb::python_error();
  }
  return blocks;
}

int lend_buffer(PyObject* block, Py_buffer* view, int flags) {
  if (!nb::inst_ready(block)) {  // by __new__ alone: no exception may pass here
    view->obj = nullptr;
    PyErr_SetString(PyExc_BufferError, "a block that was never made");
    return -1;
  }
  const HostSpan bytes = nb::cast<const HostBlock&>(nb::handle(block)).bytes();
  return PyBuffer_FillInfo(view, block, bytes.data(), static_cast<Py_ssize_t>(bytes.size()), 0, flags);
}

// Paths may hold any bytes; Python spells those that are not text with surrogates, as os.fsdecode does.
nb::object text_of(const std::string& bytes) {
  return nb::steal(PyUnicode_DecodeFSDefaultAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
}

}  // namespace

void bind_errors(nb::module_& m) {
  constexpr const char* kDoc =
      "A native failure: code, system_code, source, offset, nbytes, key, expected, actual; str() tells.";
  nb::object type =
      nb::steal(PyErr_NewExceptionWithDoc("streamload._native.NativeError", kDoc, PyExc_Exception, nullptr));
  m.attr("NativeError") = type;
  nb::register_exception_translator(
      [](const std::exception_ptr& thrown, void* payload) {
        try {
          std::rethrow_exception(thrown);
        } catch (const Error& error) {
          const Status& status = error.status();
          const nb::handle kind(static_cast<PyObject*>(payload));
          nb::object instance = kind(text_of(status.text));
          const std::string_view code = code_name(status.code);
          instance.attr("code") = nb::str(code.data(), code.size());
          instance.attr("system_code") = status.system_code;
          instance.attr("source") = text_of(status.source);
          instance.attr("offset") = status.offset;
          instance.attr("nbytes") = status.nbytes;
          instance.attr("key") = status.key;
          instance.attr("expected") = status.expected;
          instance.attr("actual") = status.actual;
          PyErr_SetObject(kind.ptr(), instance.ptr());
        }
      },
      type.ptr());
}

void bind_memory(nb::module_& m) {
  static PyType_Slot slots[] = {{Py_bf_getbuffer, reinterpret_cast<void*>(&lend_buffer)}, {0, nullptr}};
  nb::class_<HostBlock>(m, "HostBlock", nb::type_slots(slots), nb::is_weak_referenceable(),
                        "New host memory, freed with the last reference; a buffer of its bytes.")
      .def_prop_ro("address",
                   [](const HostBlock& block) { return reinterpret_cast<std::uintptr_t>(block.bytes().data()); })
      .def_prop_ro("nbytes", [](const HostBlock& block) { return block.bytes().size(); });
  m.def("make_host_blocks", &make_host_blocks, "sizes"_a,
        "Blocks of so many bytes, of zeros, each freed by itself; on huge pages from 2 MiB on. Raises MemoryError.");
  m.def("export_tensor", &export_tensor, "address"_a, "shape"_a, "type_code"_a, "bits"_a, "device_type"_a,
        "device_id"_a, "owner"_a,
        "DLPack capsule of a contiguous tensor over memory that `owner` keeps alive; code and bits as in dlpack.h.");
  m.def("crc32c_combine", &crc32c_combine, "first"_a, "second"_a, "second_nbytes"_a,
        "CRC-32C of two runs of bytes put together.");
}

}  // namespace streamload
