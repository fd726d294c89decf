// Remote objects: the client that fetches them, a source of one, and the ceiling they are measured against.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <optional>
#include <tuple>

#include "bindings/gil_hold.hpp"
#include "bindings/python.hpp"
#include "http/http_source.hpp"
#include "http/raw_client.hpp"

using namespace nanobind::literals;

namespace streamload {
namespace {

struct PyHttpClient {
  Bound<HttpClient> client;
};

using FlatRequest = std::pair<std::string, std::vector<std::string>>;  // URL, headers
using FlatPolicy = std::tuple<double, double, double, double, double, bool, bool>;

// A Python `renew(status) -> (url, headers)`, whose last reference may go on any thread.
struct Renew {
  nb::callable call;

  explicit Renew(nb::callable callable) : call(std::move(callable)) {}
  Renew(const Renew&) = delete;
  Renew& operator=(const Renew&) = delete;
  ~Renew() { drop_held(call); }

  [[nodiscard]] Status operator()(int status, HttpRequest& out) const {
    if (finalizing()) return Status::failure(Code::kCancelled, "the interpreter is ending");
    const GilHold gil;
    std::string raised;
    nb::object answer;
    // Python takes the GIL again and again in there: a thread that it ends must not pass by the objects above.
    park_if_unwound([&] {
      try {
        answer = call(status);
      } catch (const std::exception& error) {
        raised = error.what();
      }
    });
    if (!answer) return Status::failure(Code::kCallbackFailed, std::move(raised));
    FlatRequest request;
    if (!nb::try_cast(answer, request)) {
      return Status::failure(Code::kCallbackFailed, "renew returned something else than (url, headers)");
    }
    out.url = std::move(request.first);
    out.headers = std::move(request.second);
    return {};
  }
};

PySource http_source(const PyHttpClient& client, std::string url, std::uint64_t nbytes, std::string etag,
                     std::string request_url, std::vector<std::string> headers, std::string ca_file,
                     std::optional<nb::callable> renew, const FlatPolicy& policy) {
  HttpObject::Facts facts{std::move(url), nbytes, std::move(etag), std::move(ca_file), {}};
  RetryPolicy& patience = facts.policy;
  std::tie(patience.connect_seconds, patience.stall_seconds, patience.retry_seconds, patience.first_backoff_seconds,
           patience.most_backoff_seconds, patience.hedge, patience.verify_tls) = policy;
  HttpObject::Renew renewal;
  if (renew) {
    const auto call = std::make_shared<Renew>(std::move(*renew));
    renewal = [call](int status, HttpRequest& out) { return (*call)(status, out); };
  }
  PySource out;
  throw_if_error(HttpSource::make(client.client.share(), std::move(facts), {std::move(request_url), std::move(headers)},
                                  std::move(renewal), out.source));
  return out;
}

std::vector<std::pair<double, double>> measure_http(const std::string& host, std::uint16_t port,
                                                    const std::string& path, const std::vector<ByteRange>& ranges,
                                                    std::size_t connections, int repeats) {
  std::vector<std::pair<double, double>> seconds;
  run_released([&] { return measure_raw_http({host, port, path}, ranges, connections, repeats, seconds); });
  return seconds;
}

}  // namespace

void bind_http(nb::module_& m) {
  nb::class_<PyHttpClient>(m, "HttpClient", "Fetches ranges of remote objects, on threads of its own, by libcurl.")
      .def(
          "__init__",
          [](PyHttpClient* self, std::string library, std::size_t connections, std::size_t threads) {
            std::shared_ptr<HttpClient> client;
            // With the GIL, which keeps two from starting libcurl at once.
            throw_if_error(HttpClient::make({std::move(library), connections, threads}, client));
            ::new (self) PyHttpClient{Bound<HttpClient>(std::move(client))};
          },
          nb::kw_only(), "library"_a = "libcurl.so.4", "connections"_a = 0, "threads"_a = 1)
      .def_prop_ro("version", [](const PyHttpClient& self) { return self.client.get().version(); })
      .def("close", [](const PyHttpClient& self) {
        const GilRelease released;
        if (self.client.here()) self.client.get().close();
      });
  m.def("http_source", &http_source, "client"_a, "url"_a, "nbytes"_a, "etag"_a, "request_url"_a, "headers"_a,
        "ca_file"_a, "renew"_a.none(), "policy"_a);
  m.def("measure_http", &measure_http, "host"_a, "port"_a, "path"_a, "ranges"_a, "connections"_a = 8, "repeats"_a = 1,
        "Seconds, and processor seconds, of each of `repeats` times all ranges over plain sockets. Blocks.");
}

}  // namespace streamload
