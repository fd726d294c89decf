// Fetches ranges of remote objects over HTTP, on threads of its own.
//
// Thread-safe. Sources share one, so that connections, name look-ups and what was learned about the pace are shared
// too. Connections that a request has ended on stay open for the next.
#pragma once

#include <sys/types.h>

#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "http/http_loop.hpp"

namespace streamload {

struct HttpClientOptions {
  std::string library = "libcurl.so.4";
  std::size_t connections = 0;  // most requests under way; 0: as many as bandwidth × latency asks for
  std::size_t threads = 1;
  bool take_over = true;  // connections without TLS from libcurl; false where it is to do everything
};

class HttpClient {
 public:
  // Fails with kNoLibrary where there is no libcurl.
  [[nodiscard]] static Status make(const HttpClientOptions& options, std::shared_ptr<HttpClient>& out);
  HttpClient(std::shared_ptr<const CurlLibrary> curl, std::size_t connections);
  HttpClient(const HttpClient&) = delete;
  HttpClient& operator=(const HttpClient&) = delete;
  ~HttpClient();

  // Never blocks; see Source::fetch.
  void fetch(const std::shared_ptr<HttpFetch>& fetch) noexcept;
  [[nodiscard]] bool has_room() const noexcept { return pace_->has_room(); }
  [[nodiscard]] std::size_t depth() const noexcept { return pace_->depth(); }

  // Ends every fetch with kClosed and waits for the threads; later fetches end likewise. Idempotent. On one of its own
  // threads it does not wait.
  void close() noexcept;

  [[nodiscard]] std::string version() const { return curl_->version(); }

 private:
  [[nodiscard]] Status start(std::size_t threads, bool take_over);

  const std::shared_ptr<const CurlLibrary> curl_;
  const std::shared_ptr<HttpPace> pace_;
  const std::shared_ptr<AsideThread> aside_ = std::make_shared<AsideThread>();
  const pid_t owner_;  // a forked child has none of the threads
  std::vector<std::shared_ptr<HttpLoop>> loops_;

  std::mutex closing_;  // guards threads_
  std::vector<std::thread> threads_;
};

}  // namespace streamload
