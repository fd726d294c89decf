// Sources: files that the engine reads itself, and Python objects that fill a buffer.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <optional>

#include "bindings/gil_hold.hpp"
#include "bindings/python.hpp"
#include "io/callback_source.hpp"
#include "io/file_source.hpp"
#include "io/mapped_file.hpp"

using namespace nanobind::literals;

namespace streamload {
namespace {

// A view lent for one call, dead afterwards however the call ends. Slices and arrays over it would live on.
struct View {
  nb::object object;

  ~View() {
    if (const auto none = nb::steal(PyObject_CallMethod(object.ptr(), "release", nullptr)); !none) PyErr_Clear();
  }
  [[nodiscard]] bool kept() const {
    const auto* view = reinterpret_cast<PyMemoryViewObject*>(object.ptr());
    return view->exports > 0 || view->mbuf->exports > 1;
  }
};

// A Python `read_into(offset, memoryview) -> int`, whose last reference may go on any thread.
struct ReadInto {
  nb::callable call;

  explicit ReadInto(nb::callable callable) : call(std::move(callable)) {}
  ReadInto(const ReadInto&) = delete;
  ReadInto& operator=(const ReadInto&) = delete;
  ~ReadInto() { drop_held(call); }

  [[nodiscard]] Status operator()(std::uint64_t offset, HostSpan buffer, std::size_t& got) const {
    if (finalizing()) return Status::failure(Code::kCancelled, "the interpreter is ending");
    const GilHold gil;
    try {
      auto* address = reinterpret_cast<char*>(buffer.data());
      const View view(nb::steal(PyMemoryView_FromMemory(address, static_cast<Py_ssize_t>(buffer.size()), PyBUF_WRITE)));
      nb::object answer;
      std::string raised;
      // Python takes the GIL again and again in there: a thread that it ends must not pass by the objects above.
      park_if_unwound([&] {
        try {
          answer = call(offset, view.object);
        } catch (const std::exception& error) {
          raised = error.what();
        }
      });
      if (!answer) return Status::failure(Code::kCallbackFailed, std::move(raised));
      if (view.kept()) return Status::failure(Code::kCallbackFailed, "read_into kept a part of the buffer it was lent");
      if (nb::try_cast(answer, got)) return {};
      return Status::failure(Code::kCallbackFailed, std::string("read_into returned ") + nb::repr(answer).c_str() +
                                                        ", expected how many bytes it read");
    } catch (const std::exception& error) {
      return Status::failure(Code::kCallbackFailed, error.what());
    }
  }
};

PySource callback_source(std::string url, nb::callable callable) {
  const auto call = std::make_shared<ReadInto>(std::move(callable));
  const auto read = [call](std::uint64_t offset, HostSpan to, std::size_t& got) { return (*call)(offset, to, got); };
  return PySource(std::make_shared<CallbackSource>(std::move(url), read));
}

PySource file_source(const nb::bytes& path, std::uint64_t device, std::uint64_t inode, std::uint64_t nbytes,
                     std::int64_t mtime_ns, std::optional<bool> direct) {
  const std::string name(path.c_str(), path.size());
  PySource out;
  run_released([&] { return FileSource::open(name, {device, inode, nbytes, mtime_ns}, direct, out.source); });
  return out;
}

std::shared_ptr<MappedFile> open_mapped_file(const nb::bytes& path, std::uint64_t device, std::uint64_t inode,
                                             std::uint64_t nbytes, std::int64_t mtime_ns) {
  const std::string name(path.c_str(), path.size());
  std::shared_ptr<MappedFile> file;
  run_released([&] { return MappedFile::open(name, {device, inode, nbytes, mtime_ns}, file); });
  return file;
}

}  // namespace

void bind_sources(nb::module_& m) {
  nb::class_<PySource>(m, "Source", "Where the engine's threads read; made by file_source or callback_source.")
      .def_prop_ro("url", [](const PySource& self) { return self.source->url(); });
  m.def("file_source", &file_source, "path"_a, "device"_a, "inode"_a, "nbytes"_a, "mtime_ns"_a, "direct"_a.none());
  m.def("callback_source", &callback_source, "url"_a, "read_into"_a);
  nb::class_<MappedFile>(m, "MappedFile", "A file in memory, private and writable; unmapped with its last tensor.")
      .def(nb::new_(&open_mapped_file), "path"_a, "device"_a, "inode"_a, "nbytes"_a, "mtime_ns"_a)
      .def_prop_ro("address",
                   [](const MappedFile& self) { return reinterpret_cast<std::uintptr_t>(self.bytes().data()); })
      .def_prop_ro("nbytes", [](const MappedFile& self) { return self.bytes().size(); });
}

}  // namespace streamload
