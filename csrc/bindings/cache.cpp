// Cache files: what tiers keep on their way from a store.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <tuple>
#include <vector>

#include "bindings/python.hpp"
#include "io/cache_file.hpp"
#include "io/tiered_source.hpp"

using namespace nanobind::literals;

namespace streamload {
namespace {

struct PyTierThreads {
  Bound<TierThreads> threads;
};

// Memory of a Python object, lent for one call.
class Lent {
 public:
  Lent(nb::handle object, int flags) {
    if (PyObject_GetBuffer(object.ptr(), &view_, flags) != 0) throw nb::python_error();
  }
  Lent(const Lent&) = delete;
  Lent& operator=(const Lent&) = delete;
  ~Lent() { PyBuffer_Release(&view_); }

  [[nodiscard]] HostSpan bytes() const {
    return {static_cast<std::byte*>(view_.buf), static_cast<std::size_t>(view_.len)};
  }

 private:
  Py_buffer view_{};
};

std::string path_of(const nb::bytes& path) { return {path.c_str(), path.size()}; }

std::shared_ptr<CacheFile> open_cache_file(const nb::bytes& path, std::uint64_t nbytes, const nb::bytes& identity,
                                           const nb::bytes& publish_path) {
  CacheFile::Settings settings{path_of(path), {nbytes, {}}, path_of(publish_path)};
  if (identity.size() != settings.object.identity.size()) throw nb::value_error("identity: expected 32 bytes");
  const auto* first = static_cast<const std::byte*>(identity.data());
  std::copy_n(first, identity.size(), settings.object.identity.begin());
  std::shared_ptr<CacheFile> file;
  run_released([&] { return CacheFile::open(std::move(settings), file); });
  return file;
}

bool remove_cache_file(const nb::bytes& path) {
  const std::string name = path_of(path);
  bool removed = false;
  run_released([&] { return CacheFile::remove(name, removed); });
  return removed;
}

void read_cached(CacheFile& self, std::uint64_t offset, const nb::object& buffer) {
  const Lent lent(buffer, PyBUF_WRITABLE);
  const HostSpan target = lent.bytes();
  run_released([&] { return self.read(offset, {&target, 1}); });
}

bool put_cached(CacheFile& self, std::uint64_t offset, const nb::object& buffer) {
  const Lent lent(buffer, PyBUF_SIMPLE);
  const ConstHostSpan part = lent.bytes();
  const GilRelease released;
  const bool put = self.put(offset, {&part, 1});
  self.settle();
  return put;
}

std::optional<CacheClaim> try_claim(CacheFile& self, std::uint64_t offset, std::uint64_t nbytes) {
  CacheClaim claim;
  const GilRelease released;
  if (self.try_claim(offset, nbytes, claim) != ClaimOutcome::kClaimed) return std::nullopt;
  return claim;
}

std::vector<std::tuple<std::uint64_t, std::uint64_t>> missing(CacheFile& self, std::uint64_t offset,
                                                              std::uint64_t nbytes) {
  std::vector<std::tuple<std::uint64_t, std::uint64_t>> gaps;
  for (const ByteRange gap : self.missing(offset, nbytes)) gaps.emplace_back(gap.start, gap.end);
  return gaps;
}

PySource tiered_source(const PyTierThreads& threads, const PySource& inner, const std::shared_ptr<CacheFile>& cache) {
  PySource out;
  throw_if_error(TieredSource::make(threads.threads.share(), inner.source, cache, out.source));
  return out;
}

void publish(CacheFile& self, const nb::bytes& target, bool replace) {
  const std::string name = path_of(target);
  run_released([&] { return self.publish(name, replace); });
}

}  // namespace

void bind_cache(nb::module_& m) {
  nb::class_<CacheClaim>(m, "CacheClaim", "The right to fetch a range; given back with its last reference.")
      .def("release", [](CacheClaim& self) { self.release(); });
  nb::class_<CacheFile>(m, "CacheFile", "One object on its way into a cache, shared with other processes.")
      .def(nb::new_(&open_cache_file), "path"_a, "nbytes"_a, "identity"_a, nb::kw_only(),
           "publish_path"_a = nb::bytes(""))
      .def_static("remove", &remove_cache_file, "path"_a)
      .def_prop_ro("nbytes", &CacheFile::nbytes)
      .def_prop_ro("covered_bytes", &CacheFile::covered_bytes)
      .def_prop_ro("complete", &CacheFile::complete)
      .def_prop_ro("published", &CacheFile::published)
      .def_prop_ro("broken", &CacheFile::broken)
      .def("covers", &CacheFile::covers, "offset"_a, "nbytes"_a)
      .def("missing", &missing, "offset"_a, "nbytes"_a)
      .def("read_into", &read_cached, "offset"_a, "buffer"_a)
      .def("try_claim", &try_claim, "offset"_a, "nbytes"_a)
      .def("put", &put_cached, "offset"_a, "buffer"_a)
      .def("publish", &publish, "target"_a, "replace"_a);
  nb::class_<PyTierThreads>(m, "TierThreads", "The threads of tiered sources, and the memory of what is to be written.")
      .def("__init__",
           [](PyTierThreads* self) { ::new (self) PyTierThreads{Bound<TierThreads>(std::make_shared<TierThreads>())}; })
      .def("close", [](const PyTierThreads& self) {
        const GilRelease released;
        if (self.threads.here()) self.threads.get().close();
      });
  m.def("tiered_source", &tiered_source, "threads"_a, "inner"_a, "cache"_a);
}

}  // namespace streamload
