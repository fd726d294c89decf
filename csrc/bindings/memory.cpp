// Host memory for tensors, tensors over memory, and the failures of everything native.
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include "bindings/python.hpp"
#include "core/crc32c.hpp"
#include "core/host_block.hpp"

using namespace nanobind::literals;

namespace streamload {
namespace {

nb::ndarray<std::uint8_t> export_tensor(std::uintptr_t address, std::size_t nbytes, int device_type, int device_id,
                                        nb::handle owner) {
  // NOLINTNEXTLINE(performance-no-int-to-ptr): an address that torch or a mapping handed out, wrapped at once
  return {
      reinterpret_cast<std::uint8_t*>(address), {nbytes}, owner, {}, nb::dtype<std::uint8_t>(), device_type, device_id};
}

// Paths may hold any bytes; Python spells those that are not text with surrogates, as os.fsdecode does.
nb::object text_of(const std::string& bytes) {
  return nb::steal(PyUnicode_DecodeFSDefaultAndSize(bytes.data(), static_cast<Py_ssize_t>(bytes.size())));
}

std::shared_ptr<HostBlock> make_host_block(std::size_t nbytes) {
  HostBlock block;
  throw_if_error(HostBlock::make(nbytes, -1, block));
  return std::make_shared<HostBlock>(std::move(block));
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
  nb::class_<HostBlock>(m, "HostBlock", "Untouched host memory on huge pages; unmapped with its last reference.")
      .def(nb::new_(&make_host_block), "nbytes"_a)
      .def_prop_ro("address",
                   [](const HostBlock& self) { return reinterpret_cast<std::uintptr_t>(self.bytes().data()); })
      .def_prop_ro("nbytes", [](const HostBlock& self) { return self.bytes().size(); });
  m.def("export_tensor", &export_tensor, "address"_a, "nbytes"_a, "device_type"_a, "device_id"_a, "owner"_a,
        "DLPack capsule of uint8[nbytes] over memory that `owner` keeps alive.");
  m.def("crc32c_combine", &crc32c_combine, "first"_a, "second"_a, "second_nbytes"_a,
        "CRC-32C of two runs of bytes put together.");
}

}  // namespace streamload
