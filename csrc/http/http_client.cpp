#include "http/http_client.hpp"

#include <unistd.h>

#include <algorithm>
#include <system_error>
#include <utility>

#include "core/leak.hpp"
#include "core/signals_blocked.hpp"

namespace streamload {

Status HttpClient::make(const HttpClientOptions& options, std::shared_ptr<HttpClient>& out) {
  std::shared_ptr<const CurlLibrary> curl;
  if (Status status = CurlLibrary::load(options.library, curl); !status.ok()) return status;
  auto client = std::make_shared<HttpClient>(std::move(curl), options.connections);
  std::size_t threads = std::max<std::size_t>(options.threads, 1);
  if (options.connections != 0) threads = std::min(threads, options.connections);
  if (Status status = client->start(threads, options.take_over); !status.ok()) return status;
  out = std::move(client);
  return {};
}

HttpClient::HttpClient(std::shared_ptr<const CurlLibrary> curl, std::size_t connections)
    : curl_(std::move(curl)), pace_(std::make_shared<HttpPace>(connections)), owner_(::getpid()) {}

HttpClient::~HttpClient() {
  if (owner_ == ::getpid()) {
    close();
    return;
  }
  // Of the parent's threads, and what they held, nothing can be ended here.
  leak(std::move(threads_));
  leak(std::move(loops_));
  leak(aside_);
}

Status HttpClient::start(std::size_t threads, bool take_over) {
  for (std::size_t i = 0; i < threads; ++i) {
    std::shared_ptr<HttpLoop> loop;
    if (Status status = HttpLoop::make({curl_, pace_, aside_, threads, take_over}, i, loop); !status.ok())
      return status;
    loops_.push_back(std::move(loop));
  }
  try {
    const SignalsBlocked blocked;
    // A loop's thread keeps it: the last source, and this with it, may end there.
    for (const auto& loop : loops_) threads_.emplace_back([loop] { loop->run(); });
  } catch (const std::system_error& error) {
    return Status::failure(Code::kReadFailed, std::string("no HTTP client: cannot start a thread: ") + error.what());
  }
  return {};
}

void HttpClient::fetch(const std::shared_ptr<HttpFetch>& fetch) noexcept {
  const auto fewer = [](const auto& a, const auto& b) { return a->outstanding() < b->outstanding(); };
  (*std::min_element(loops_.begin(), loops_.end(), fewer))->submit(fetch);
}

void HttpClient::close() noexcept {
  for (const auto& loop : loops_) loop->stop();
  const bool aside = aside_->runs_here();
  aside_->close();
  const std::lock_guard closing(closing_);
  const auto here = [](const std::thread& thread) { return thread.get_id() == std::this_thread::get_id(); };
  const bool own = aside || std::any_of(threads_.begin(), threads_.end(), here);
  for (std::thread& thread : threads_) own ? thread.detach() : thread.join();
  threads_.clear();
}

}  // namespace streamload
