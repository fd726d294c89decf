// The only file that includes Python: wraps the engine's classes one to one for streamload._engine.
//
// Rules of this border. Every call that can block releases the GIL, and wakes every 20 ms to let signal handlers
// run. Objects belong to the process that made them: used in a forked child they say so, destroyed there they are
// left alone (their threads and locks did not survive the fork). Failures cross as NativeError with fields.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>
#include <unistd.h>

#include <chrono>
#include <optional>
#include <utility>

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
constexpr auto kSignalPatience = std::chrono::milliseconds(20);

bool finalizing() noexcept {
#if PY_VERSION_HEX >= 0x030D0000
  return Py_IsFinalizing() != 0;
#else
  return _Py_IsFinalizing() != 0;
#endif
}

// Releases the GIL. Taking it back on a daemon thread while the interpreter ends would unwind this thread through
// noexcept frames (until Python 3.14, which parks such threads itself), so it is parked here.
class GilRelease {
 public:
  GilRelease() noexcept : state_(PyEval_SaveThread()) {}
  GilRelease(const GilRelease&) = delete;
  GilRelease& operator=(const GilRelease&) = delete;
  ~GilRelease() {
    while (finalizing() && ::gettid() != ::getpid()) ::pause();
    PyEval_RestoreThread(state_);
  }

 private:
  PyThreadState* state_;
};

// A shared object bound to the process that made it.
template <class T>
class ProcessBound {
 public:
  ProcessBound() noexcept = default;
  explicit ProcessBound(std::shared_ptr<T> value) noexcept : value_(std::move(value)) {}
  ProcessBound(ProcessBound&&) noexcept = default;
  ProcessBound& operator=(ProcessBound&&) noexcept = default;
  ProcessBound(const ProcessBound&) = delete;
  ProcessBound& operator=(const ProcessBound&) = delete;
  ~ProcessBound() {
    if (!here()) {  // leaked on purpose: its destructor would join threads that this process never had
      static_cast<void>(std::make_unique<std::shared_ptr<T>>(std::move(value_)).release());
    } else if (value_) {
      const GilRelease released;  // destructors join threads, and those may want the GIL
      value_.reset();
    }
  }

  [[nodiscard]] bool here() const noexcept { return owner_ == ::getpid(); }
  [[nodiscard]] T& get() const {
    if (!here()) {
      throw_if_error(Status::failure(Code::kForked, "made in process " + std::to_string(owner_) +
                                                        " and used in its forked child " + std::to_string(::getpid()) +
                                                        ": open and load again in the child"));
    }
    return *value_;
  }
  [[nodiscard]] const std::shared_ptr<T>& share() const {
    static_cast<void>(get());
    return value_;
  }

 private:
  std::shared_ptr<T> value_;
  pid_t owner_ = ::getpid();
};

struct PyDevice {
  ProcessBound<Device> device;
};
struct PyHostDevice : PyDevice {};
struct PyCudaDevice : PyDevice {
  std::shared_ptr<CudaDevice> cuda;
};
struct PySource {
  std::shared_ptr<Source> source;
};
struct PyEngine {
  ProcessBound<CopyEngine> engine;
};
struct PyTicket {
  nb::object keep_alive;  // declared first: destroyed after the ticket has drained
  ProcessBound<Ticket> ticket;
};

// Calls `wait(patience, ready)` until it is ready or `timeout` is over; Python's signal handlers run in between.
template <class Wait>
bool wait_with_signals(std::optional<double> timeout, Wait&& wait) {
  const auto give_up = Clock::now() + std::chrono::duration_cast<Clock::duration>(
                                          std::chrono::duration<double>(std::min(timeout.value_or(1e8), 1e8)));
  bool ready = false;
  throw_if_error(wait(Clock::duration::zero(), ready));
  while (!ready && Clock::now() < give_up) {
    Status status;
    {
      const GilRelease released;
      status = wait(std::min<Clock::duration>(kSignalPatience, give_up - Clock::now()), ready);
    }
    throw_if_error(std::move(status));
    if (PyErr_CheckSignals() != 0) throw nb::python_error();
  }
  return ready;
}

// Wraps a Python `read_into(offset, memoryview) -> int`. The last reference may go on any thread.
std::shared_ptr<Source> make_callback_source(std::string url, nb::callable read_into) {
  const std::shared_ptr<nb::callable> call(new nb::callable(std::move(read_into)), [](nb::callable* callable) {
    const std::unique_ptr<nb::callable> owned(callable);
    if (finalizing()) {
      static_cast<void>(owned->release());
      return;
    }
    const nb::gil_scoped_acquire gil;
    owned->reset();
  });
  return std::make_shared<CallbackSource>(
      std::move(url), [call](std::uint64_t offset, HostSpan buffer, std::size_t& got) {
        if (finalizing()) return Status::failure(Code::kCancelled, "the interpreter is ending");
        const nb::gil_scoped_acquire gil;
        try {
          const nb::object view = nb::steal(PyMemoryView_FromMemory(
              reinterpret_cast<char*>(buffer.data()), static_cast<Py_ssize_t>(buffer.size()), PyBUF_WRITE));
          got = nb::cast<std::size_t>((*call)(offset, view));
          view.attr("release")();  // a view kept by the callee must not reach the buffer's next use
          return Status{};
        } catch (const std::exception& error) {
          return Status::failure(Code::kCallbackFailed, error.what());
        }
      });
}

std::shared_ptr<Source> open_file_source(std::string path, std::uint64_t device, std::uint64_t inode,
                                         std::uint64_t nbytes, std::int64_t mtime_ns, std::optional<bool> direct) {
  std::shared_ptr<Source> source;
  const FileStamp stamp{device, inode, nbytes, mtime_ns};
  Status status;
  {
    const GilRelease released;
    status = FileSource::open(std::move(path), stamp, direct, source);
  }
  throw_if_error(std::move(status));
  return source;
}

std::shared_ptr<MappedFile> open_mapped_file(const std::string& path, std::uint64_t device, std::uint64_t inode,
                                             std::uint64_t nbytes, std::int64_t mtime_ns) {
  std::shared_ptr<MappedFile> file;
  Status status;
  {
    const GilRelease released;
    status = MappedFile::open(path, FileStamp{device, inode, nbytes, mtime_ns}, file);
  }
  throw_if_error(std::move(status));
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
  std::optional<StreamView> after;
  if (after_stream) after = StreamView{*after_stream};
  std::shared_ptr<Ticket> ticket;
  Status status;
  {
    const GilRelease released;
    Plan plan;
    status = parse_plan({reads.data(), reads.size()}, {copies.data(), copies.size()}, group_count, shared.size(),
                        target.options().chunk_bytes, plan);
    if (status.ok()) status = target.submit(std::move(plan), std::move(shared), after, ticket);
  }
  throw_if_error(std::move(status));
  return PyTicket{std::move(keep_alive), ProcessBound<Ticket>(std::move(ticket))};
}

// -> (ready, resident)
std::pair<bool, bool> wait_group(const PyTicket& self, std::uint32_t group, std::optional<std::uintptr_t> stream,
                                 std::optional<double> timeout) {
  Ticket& ticket = self.ticket.get();
  std::optional<StreamView> view;
  if (stream) view = StreamView{*stream};
  bool resident = false;
  const bool ready = wait_with_signals(timeout, [&](Clock::duration patience, bool& is_ready) {
    return ticket.wait_group(group, view, patience, is_ready, resident);
  });
  return {ready, resident};
}

nb::dict stats_of(const PyTicket& self) {
  const TicketStats stats = self.ticket.get().stats();
  const auto& routes = stats.bytes_by_route;
  nb::dict out;
  out["bytes_total"] = stats.bytes_total;
  out["bytes_read"] = stats.bytes_read;
  out["bytes_resident"] = stats.bytes_resident;
  out["buffered_bytes"] = routes[static_cast<std::size_t>(Route::kBuffered)];
  out["direct_bytes"] = routes[static_cast<std::size_t>(Route::kDirect)];
  out["in_place_bytes"] = routes[static_cast<std::size_t>(Route::kInPlace)];
  out["callback_bytes"] = routes[static_cast<std::size_t>(Route::kCallback)];
  out["groups"] = stats.groups;
  out["groups_resident"] = stats.groups_resident;
  out["pinned_bytes"] = stats.pinned_bytes;
  out["seconds"] = stats.seconds;
  out["first_group_seconds"] = stats.first_group_seconds;
  out["stall_seconds"] = stats.stall_seconds;
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
  Ticket& ticket = self.ticket.get();
  {
    const GilRelease released;
    ticket.close();
  }
  self.keep_alive.reset();  // every copy has landed
}

void close_engine(const PyEngine& self) {
  if (!self.engine.here()) return;
  CopyEngine& engine = self.engine.get();
  const GilRelease released;
  engine.close();
}

std::vector<double> measure_link(const PyDevice& self, std::size_t nbytes, int repeats) {
  Device& device = self.device.get();
  std::vector<double> seconds;
  Status status;
  {
    const GilRelease released;
    status = device.measure_link(nbytes, repeats, seconds);
  }
  throw_if_error(std::move(status));
  return seconds;
}

std::uintptr_t allocate(const PyDevice& self, std::size_t nbytes) {
  DeviceSpan memory;
  throw_if_error(self.device.get().allocate(nbytes, memory));
  return memory.address;
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

void bind_errors(nb::module_& m) {
  static_assert(std::is_nothrow_move_constructible_v<Status>);
  nb::object type = nb::steal(PyErr_NewExceptionWithDoc(
      "streamload._native.NativeError",
      "A native failure: code, system_code, source, offset, nbytes; str() says what happened.", PyExc_Exception,
      nullptr));
  m.attr("NativeError") = type;
  nb::register_exception_translator(
      [](const std::exception_ptr& thrown, void* payload) {
        try {
          std::rethrow_exception(thrown);
        } catch (const Error& error) {
          const Status& status = error.status();
          const nb::handle kind(static_cast<PyObject*>(payload));
          nb::object instance = kind(status.text);
          const std::string_view code = code_name(status.code);
          instance.attr("code") = nb::str(code.data(), code.size());
          instance.attr("system_code") = status.system_code;
          instance.attr("source") = status.source;
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
      .def_prop_ro("waits_on_host", [](const PyDevice& self) { return self.device.get().waits_on_host(); })
      .def("measure_link", &measure_link, "nbytes"_a, "repeats"_a = 5,
           "Seconds of each of `repeats` pinned copies of `nbytes` to the device. Blocks.")
      .def("allocate", &allocate, "nbytes"_a, "Address of fresh device memory, owned by the caller.")
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
            ::new (self) PyHostDevice{{ProcessBound<Device>(std::move(device))}};
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
            ::new (self) PyCudaDevice{{ProcessBound<Device>(device)}, device};
          },
          "ordinal"_a = 0, nb::kw_only(), "library"_a = "libcuda.so.1")
      .def_prop_ro("properties", [](const PyCudaDevice& self) {
        static_cast<void>(self.device.get());
        CudaProperties facts;
        throw_if_error(self.cuda->properties(facts));
        nb::dict out;
        out["name"] = facts.name;
        out["pci_bus_id"] = facts.pci_bus_id;
        out["compute_capability"] = nb::make_tuple(facts.compute_major, facts.compute_minor);
        out["total_bytes"] = facts.total_bytes;
        out["driver_version"] = facts.driver_version;
        out["numa_node"] = facts.numa_node;
        return out;
      });
}

void bind_sources(nb::module_& m) {
  nb::class_<PySource>(m, "Source", "Where the engine's threads read; made by file_source or callback_source.")
      .def_prop_ro("url", [](const PySource& self) { return self.source->url(); });
  m.def(
      "file_source",
      [](std::string path, std::uint64_t device, std::uint64_t inode, std::uint64_t nbytes, std::int64_t mtime_ns,
         std::optional<bool> direct) {
        return PySource{open_file_source(std::move(path), device, inode, nbytes, mtime_ns, direct)};
      },
      "path"_a, "device"_a, "inode"_a, "nbytes"_a, "mtime_ns"_a, "direct"_a.none());
  m.def(
      "callback_source",
      [](std::string url, nb::callable read_into) {
        return PySource{make_callback_source(std::move(url), std::move(read_into))};
      },
      "url"_a, "read_into"_a);
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
      .def("wait_group", &wait_group, "group"_a, "stream"_a.none(), "timeout"_a.none())
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
      .def("cancel", [](const PyTicket& self) { self.ticket.get().cancel(); })
      .def("close", &close_ticket)
      .def("stats", &stats_of)
      .def("trace", &trace_of);
  nb::class_<PyEngine>(m, "CopyEngine", "Staging ring and threads for one device.")
      .def(
          "__init__",
          [](PyEngine* self, const PyDevice& device, std::size_t chunk_bytes, std::size_t staging_bytes,
             std::size_t read_threads) {
            auto engine = std::make_shared<CopyEngine>(device.device.share(),
                                                       CopyEngineOptions{chunk_bytes, staging_bytes, read_threads});
            ::new (self) PyEngine{ProcessBound<CopyEngine>(std::move(engine))};
          },
          "device"_a, nb::kw_only(), "chunk_bytes"_a, "staging_bytes"_a, "read_threads"_a)
      .def("submit", &submit, "reads"_a, "copies"_a, "group_count"_a, "sources"_a, "after_stream"_a.none(),
           "keep_alive"_a)
      .def_prop_ro("pinned_bytes",
                   [](const PyEngine& self) {
                     const auto ring = self.engine.get().ring();
                     return ring ? ring->pinned_bytes() : 0;
                   })
      .def_prop_ro("leased",
                   [](const PyEngine& self) {
                     const auto ring = self.engine.get().ring();
                     return ring ? ring->leased() : 0;
                   })
      .def("close", &close_engine);
}

}  // namespace
}  // namespace streamload

NB_MODULE(_native, m) {
  // At exit a script's own globals may still hold a ticket; that is no leak of ours.
  nb::set_leak_warnings(false);
  m.doc() = "The compiled leaf: devices, sources and the copy engine. Wrapped by streamload._engine; knows no torch.";
#ifdef NDEBUG
  m.attr("build_type") = "release";
#else
  m.attr("build_type") = "debug";
#endif
  streamload::bind_errors(m);
  streamload::bind_devices(m);
  streamload::bind_sources(m);
  streamload::bind_engine(m);
  m.def("export_tensor", &streamload::export_tensor, "address"_a, "nbytes"_a, "device_type"_a, "device_id"_a, "owner"_a,
        "DLPack capsule of uint8[nbytes] over memory that `owner` keeps alive.");
}
