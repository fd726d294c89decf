// The pool, the engines over it, and their tickets.
#include "bindings/engine.hpp"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>

#include "engine/join_reads.hpp"

using namespace nanobind::literals;

namespace streamload {
namespace {

using Clock = std::chrono::steady_clock;

struct PyPool {
  Bound<ReadPool> pool;
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

PyTicket submit(const PyEngine& engine, const FlatArray& reads, const FlatArray& copies, const FlatArray& sums,
                const FlatArray& expected, std::uint32_t group_count, const std::vector<const PySource*>& sources,
                std::optional<std::uintptr_t> after_stream, nb::object keep_alive) {
  CopyEngine& target = engine.engine.get();
  std::vector<std::shared_ptr<Source>> shared = share(sources);
  const auto after = view_of(after_stream);
  const FlatPlan flat{span_of(reads), span_of(copies), span_of(sums), span_of(expected), group_count};
  std::shared_ptr<Ticket> ticket;
  run_released([&] {
    Plan plan;
    Status status = parse_plan(flat, shared.size(), engine.chunk_bytes, plan);
    return status.ok() ? target.submit(std::move(plan), std::move(shared), after, ticket) : status;
  });
  return {std::move(keep_alive), std::move(ticket)};
}

// Blocks until the group may be used; true when it is resident.
bool wait_group(const PyTicket& self, std::uint32_t group, std::optional<std::uintptr_t> stream) {
  const auto view = view_of(stream);
  bool resident = false;
  wait_with_signals({}, [&](Clock::duration patience, bool& ready) {
    return self.ticket.get().wait_group(group, view, patience, ready, resident);
  });
  return resident;
}

nb::list trace_of(const PyTicket& self) {
  nb::list out;
  for (const ChunkTrace& chunk : self.ticket.get().trace()) {
    out.append(nb::make_tuple(chunk.group, chunk.source, chunk.thread, static_cast<int>(chunk.choice.route),
                              static_cast<int>(chunk.choice.cache), chunk.in_place, chunk.offset, chunk.nbytes,
                              chunk.read_start, chunk.read_end, chunk.copy_issued, chunk.copy_done));
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

// False where it could only be cancelled, on one of its own reading threads.
bool close_engine(const PyEngine& self, bool abandon) {
  const GilRelease released;
  if (!self.engine.here()) return true;
  if (abandon) self.engine.get().abandon();
  return self.engine.get().close();
}

void bind_pool(nb::module_& m) {
  nb::class_<PyPool>(m, "ReadPool", "Reading threads and staging memory, for engines of any number of devices.")
      .def(
          "__init__",
          [](PyPool* self, std::size_t chunk_bytes, std::size_t staging_bytes, std::size_t read_threads,
             bool use_io_uring, std::uint64_t debug_seed) {
            const ReadPoolOptions options{chunk_bytes, staging_bytes, read_threads, use_io_uring, debug_seed};
            ::new (self) PyPool{Bound<ReadPool>(std::make_shared<ReadPool>(options))};
          },
          nb::kw_only(), "chunk_bytes"_a, "staging_bytes"_a, "read_threads"_a, "use_io_uring"_a = true,
          "debug_seed"_a = 0)
      .def_prop_ro("staging_bytes", [](const PyPool& self) { return self.pool.get().ring().bytes(); })
      .def(
          "longest_in_place",
          [](const PyPool& self, std::uint64_t nbytes) {
            const ReadPoolOptions& options = self.pool.get().options();
            return std::max(options.chunk_bytes, longest_in_place(nbytes, options.read_threads));
          },
          "nbytes"_a, "Longest read of a load of so many bytes that go straight from a file into host memory.")
      .def_prop_ro("pinned_bytes", [](const PyPool& self) { return self.pool.get().ring().pinned_bytes(); })
      .def_prop_ro("leased", [](const PyPool& self) { return self.pool.get().ring().leased(); })
      .def_prop_ro("refusal", [](const PyPool& self) { return self.pool.get().ring().refusal(); })
      .def(
          "widen", [](const PyPool& self, std::size_t threads) { self.pool.get().widen(threads); }, "threads"_a)
      .def("close",
           [](const PyPool& self) {
             const GilRelease released;
             if (self.pool.here()) self.pool.get().close();
           })
      .def("release", [](const PyPool& self) {
        run_released([&] {
          self.pool.get().ring().release_idle();
          return Status{};
        });
      });
}

void bind_tickets(nb::module_& m) {
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
      .def("trace", &trace_of)
      .def("sums", [](const PyTicket& self) { return self.ticket.get().sums(); });
}

}  // namespace

void bind_engine(nb::module_& m) {
  bind_pool(m);
  bind_tickets(m);
  nb::class_<PyEngine>(m, "CopyEngine", "Loads to one device, through a pool that others may share.")
      .def(
          "__init__",
          [](PyEngine* self, const PyDevice& device, const PyPool& pool) {
            auto engine = std::make_shared<CopyEngine>(device.device.share(), pool.pool.share());
            ::new (self) PyEngine{Bound<CopyEngine>(std::move(engine)), pool.pool.get().options().chunk_bytes};
          },
          "device"_a, "pool"_a)
      .def("submit", &submit, "reads"_a, "copies"_a, "sums"_a, "expected"_a, "group_count"_a, "sources"_a,
           "after_stream"_a.none(), "keep_alive"_a)
      .def("close", &close_engine, "abandon"_a = false);
}

}  // namespace streamload
