// The Python module; what is in it is bound file by file.
#include "bindings/python.hpp"
#include "core/build_type.hpp"
#include "core/ranges.hpp"

NB_MODULE(_native, m) {
  // At exit a script's own globals may still hold a ticket; that is no leak of ours.
  nanobind::set_leak_warnings(false);
  m.doc() = "The compiled leaf: devices, sources and the copy engine. Wrapped by streamload._engine; knows no torch.";
  m.attr("build_type") = streamload::kBuildType;
  m.attr("nvtx_ranges") = streamload::ranges_built();
  streamload::bind_errors(m);
  streamload::bind_memory(m);
  streamload::bind_format(m);
  streamload::bind_plan(m);
  streamload::bind_destinations(m);
  streamload::bind_devices(m);
  streamload::bind_sources(m);
  streamload::bind_cache(m);
  streamload::bind_http(m);
  streamload::bind_engine(m);
  streamload::bind_rotation(m);
}
