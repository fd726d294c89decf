// The only file that includes Python: wraps the engine's classes one to one for streamload._engine.
//
// Rules of this border: what can block releases the GIL and lets signal handlers run; objects belong to the process
// that made them (core/process_bound.hpp); a failure crosses as NativeError with its fields.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <optional>
#include <utility>

#include "core/build_type.hpp"
#include "core/interruptible_wait.hpp"
#include "core/park_on_unwind.hpp"
#include "core/process_bound.hpp"
#include "device/cuda_device.hpp"
#include "device/host_device.hpp"
#include "engine/copy_engine.hpp"
#include "io/callback_source.hpp"
#include "io/mapped_file.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace streamload {
namespace {

using Clock = std::chrono::steady_clock;

bool finalizing() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// Releases the GIL while it lives.
class GilRelease {
 public:
  GilRelease() noexcept : state_(PyEval_SaveThread()) {}
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
struct PyHostDevice : PyDevice {};
struct PyCudaDevice : PyDevice {};
struct PySource {
  std::shared_ptr<Source> source;
};
struct PyEngine {
  Bound<CopyEngine> engine;
};
struct PyTicket {
  nb::object keep_alive;  // declared first: destroyed after the ticket has drained
  Bound<Ticket> ticket;

  PyTicket(nb::object owner, std::shared_ptr<Ticket> started)
      : keep_alive(std::move(owner)), ticket(std::move(started)) {}
  PyTicket(PyTicket&&) noexcept = default;
  ~PyTicket() {
    if (!ticket.holds_here() || !ticket.get().runs_here()) return;
    // A Python source let go of the ticket that is reading it: its thread cannot wait for itself, so all of it stays.
    ticket.get().cancel();
    ticket.leak();
    static_cast<void>(keep_alive.release());
  }
};

// Waits without the GIL until ready or until `timeout` seconds are over; Python's signal handlers run in between.
template <class Wait>
bool wait_with_signals(std::optional<double> timeout, Wait&& wait) {
  return wait_in_slices(
      timeout, [&](Clock::duration patience, bool& ready) { run_released([&] { return wait(patience, ready); }); },
      [] {
        if (PyErr_CheckSignals() != 0) throw nb::python_error();
      });
}

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
  ~ReadInto() {
    if (finalizing()) {
      static_cast<void>(call.release());  // leaked: the interpreter is past counting
      return;
    }
    const nb::gil_scoped_acquire gil;
    call.reset();
  }

  [[nodiscard]] Status operator()(std::uint64_t offset, HostSpan buffer, std::size_t& got) const {
    if (finalizing()) return Status::failure(Code::kCancelled, "the interpreter is ending");
    const nb::gil_scoped_acquire gil;
    try {
      auto* address = reinterpret_cast<char*>(buffer.data());
      const View view(nb::steal(PyMemoryView_FromMemory(address, static_cast<Py_ssize_t>(buffer.size()), PyBUF_WRITE)));
      const nb::object answer = call(offset, view.object);
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
  return {std::make_shared<CallbackSource>(std::move(url), read)};
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

using FlatArray = nb::ndarray<const std::uint64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

PyTicket submit(const PyEngine& engine, const FlatArray& reads, const FlatArray& copies, std::uint32_t group_count,
                const std::vector<const PySource*>& sources, std::optional<std::uintptr_t> after_stream,
                nb::object keep_alive) {
  CopyEngine& target = engine.engine.get();
  std::vector<std::shared_ptr<Source>> shared;
  shared.reserve(sources.size());
  for (const PySource* source : sources) shared.push_back(source->source);
  const auto after = after_stream ? std::optional(StreamView{*after_stream}) : std::nullopt;
  std::shared_ptr<Ticket> ticket;
  run_released([&] {
    Plan plan;
    Status status = parse_plan({reads.data(), reads.size()}, {copies.data(), copies.size()}, group_count, shared.size(),
                               target.options().chunk_bytes, plan);
    return status.ok() ? target.submit(std::move(plan), std::move(shared), after, ticket) : status;
  });
  return {std::move(keep_alive), std::move(ticket)};
}

// Blocks until the group may be used; true when it is resident.
bool wait_group(const PyTicket& self, std::uint32_t group, std::optional<std::uintptr_t> stream) {
  const auto view = stream ? std::optional(StreamView{*stream}) : std::nullopt;
  bool resident = false;
  wait_with_signals({}, [&](Clock::duration patience, bool& ready) {
    return self.ticket.get().wait_group(group, view, patience, ready, resident);
  });
  return resident;
}

template <class Record>
nb::dict dict_of(const Record& record) {
  nb::dict out;
  for_each_field(record, [&](const char* name, const auto& value) { out[name] = value; });
  return out;
}

nb::list trace_of(const PyTicket& self) {
  nb::list out;
  for (const ChunkTrace& chunk : self.ticket.get().trace()) {
    out.append(nb::make_tuple(chunk.group, chunk.source, chunk.thread, static_cast<int>(chunk.route), chunk.offset,
                              chunk.nbytes, chunk.read_start, chunk.read_end, chunk.copy_issued, chunk.copy_done));
  }
  return out;
}

void close_ticket(PyTicket& self) {
  if (!self.ticket.here()) return;  // a forked child has nothing to close
  {
    const GilRelease released;
    self.ticket.get().close();
  }
  if (!self.ticket.get().runs_here()) self.keep_alive.reset();  // every copy has landed
}

void close_engine(const PyEngine& self, bool abandon) {
  const GilRelease released;
  if (self.engine.here()) abandon ? self.engine.get().abandon() : self.engine.get().close();
}

std::vector<double> measure_link(const PyDevice& self, std::size_t nbytes, int repeats) {
  std::vector<double> seconds;
  run_released([&] { return self.device.get().measure_link(nbytes, repeats, seconds); });
  return seconds;
}

nb::bytes read_back(const PyDevice& self, std::uintptr_t address, std::size_t nbytes) {
  std::vector<std::byte> bytes(nbytes);
  throw_if_error(self.device.get().read_back(bytes, DeviceSpan{address, nbytes}));
  return nb::bytes(bytes.data(), bytes.size());
}

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

void bind_errors(nb::module_& m) {
  constexpr const char* kDoc = "A native failure: code, system_code, source, offset, nbytes; str() says what happened.";
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
          PyErr_SetObject(kind.ptr(), instance.ptr());
        }
      },
      type.ptr());
}

void bind_devices(nb::module_& m) {
  nb::class_<PyDevice>(m, "Device", "A place weights go; made as HostDevice or CudaDevice.")
      .def_prop_ro("name", [](const PyDevice& self) { return self.device.get().name(); })
      .def("measure_link", &measure_link, "nbytes"_a, "repeats"_a = 5,
           "Seconds of each of `repeats` pinned copies of `nbytes` to the device. Blocks.")
      .def(
          "allocate",
          [](const PyDevice& self, std::size_t nbytes) {
            DeviceSpan memory;
            throw_if_error(self.device.get().allocate(nbytes, memory));
            return memory.address;
          },
          "nbytes"_a, "Address of fresh device memory, owned by the caller.")
      .def(
          "deallocate",
          [](const PyDevice& self, std::uintptr_t address, std::size_t nbytes) {
            self.device.get().deallocate(DeviceSpan{address, nbytes});
          },
          "address"_a, "nbytes"_a)
      .def("read_back", &read_back, "address"_a, "nbytes"_a, "Copy of device bytes. Blocks.");
  nb::class_<PyHostDevice, PyDevice>(m, "HostDevice", "CPU threads over host memory, with a paced link and faults.")
      .def(
          "__init__",
          [](PyHostDevice* self, double link_bytes_per_second, std::string fail_step, std::uint64_t fail_at,
             bool fail_from, bool poison, std::uint64_t seed) {
            auto device = std::make_shared<HostDevice>(
                HostDeviceOptions{link_bytes_per_second, std::move(fail_step), fail_at, fail_from, poison, seed});
            ::new (self) PyHostDevice{{Bound<Device>(std::move(device))}};
          },
          nb::kw_only(), "link_bytes_per_second"_a = 0.0, "fail_step"_a = "", "fail_at"_a = 0, "fail_from"_a = false,
          "poison"_a = false, "seed"_a = 0)
      .def_prop_ro("live_objects",
                   [](const PyHostDevice& self) { return static_cast<HostDevice&>(self.device.get()).live_objects(); });
  nb::class_<PyCudaDevice, PyDevice>(m, "CudaDevice", "A CUDA GPU through the driver, in its primary context.")
      .def(
          "__init__",
          [](PyCudaDevice* self, int ordinal, const std::string& library) {
            std::shared_ptr<CudaDevice> device;
            throw_if_error(CudaDevice::make(ordinal, library, device));
            ::new (self) PyCudaDevice{{Bound<Device>(std::move(device))}};
          },
          "ordinal"_a = 0, nb::kw_only(), "library"_a = "libcuda.so.1")
      .def_prop_ro("properties", [](const PyCudaDevice& self) {
        CudaProperties facts;
        throw_if_error(static_cast<CudaDevice&>(self.device.get()).properties(facts));
        return dict_of(facts);
      });
}

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

void bind_engine(nb::module_& m) {
  nb::class_<PyTicket>(m, "Ticket", "One submitted plan.")
      .def_prop_ro("group_count", [](const PyTicket& self) { return self.ticket.get().group_count(); })
      .def_prop_ro("done", [](const PyTicket& self) { return self.ticket.get().done(); })
      .def_prop_ro("failed", [](const PyTicket& self) { return !self.ticket.get().status().ok(); })
      .def(
          "resident", [](const PyTicket& self, std::uint32_t group) { return self.ticket.get().resident(group); },
          "group"_a)
      .def("wait_group", &wait_group, "group"_a, "stream"_a.none())
      .def(
          "wait_all",
          [](const PyTicket& self, std::optional<double> timeout) {
            Ticket& ticket = self.ticket.get();
            return wait_with_signals(
                timeout, [&](Clock::duration patience, bool& ready) { return ticket.wait_all(patience, ready); });
          },
          "timeout"_a.none())
      .def(
          "promote", [](const PyTicket& self, std::uint32_t group) { self.ticket.get().promote(group); }, "group"_a)
      .def(
          "cancel",
          [](const PyTicket& self, bool abandon) {
            if (self.ticket.here()) abandon ? self.ticket.get().abandon() : self.ticket.get().cancel();
          },
          "abandon"_a = false)
      .def("close", &close_ticket)
      .def("stats", [](const PyTicket& self) { return dict_of(self.ticket.get().stats()); })
      .def("trace", &trace_of);
  nb::class_<PyEngine>(m, "CopyEngine", "Staging ring and threads for one device.")
      .def(
          "__init__",
          [](PyEngine* self, const PyDevice& device, std::size_t chunk_bytes, std::size_t staging_bytes,
             std::size_t read_threads) {
            auto engine = std::make_shared<CopyEngine>(device.device.share(),
                                                       CopyEngineOptions{chunk_bytes, staging_bytes, read_threads});
            ::new (self) PyEngine{Bound<CopyEngine>(std::move(engine))};
          },
          "device"_a, nb::kw_only(), "chunk_bytes"_a, "staging_bytes"_a, "read_threads"_a)
      .def("submit", &submit, "reads"_a, "copies"_a, "group_count"_a, "sources"_a, "after_stream"_a.none(),
           "keep_alive"_a)
      .def_prop_ro("pinned_bytes", [](const PyEngine& self) { return self.engine.get().pinned_bytes(); })
      .def_prop_ro("leased", [](const PyEngine& self) { return self.engine.get().leased(); })
      .def("close", &close_engine, "abandon"_a = false);
}

}  // namespace
}  // namespace streamload

NB_MODULE(_native, m) {
  // At exit a script's own globals may still hold a ticket; that is no leak of ours.
  nb::set_leak_warnings(false);
  m.doc() = "The compiled leaf: devices, sources and the copy engine. Wrapped by streamload._engine; knows no torch.";
  m.attr("build_type") = streamload::kBuildType;
  streamload::bind_errors(m);
  streamload::bind_devices(m);
  streamload::bind_sources(m);
  streamload::bind_engine(m);
  m.def("export_tensor", &streamload::export_tensor, "address"_a, "nbytes"_a, "device_type"_a, "device_id"_a, "owner"_a,
        "DLPack capsule of uint8[nbytes] over memory that `owner` keeps alive.");
}
