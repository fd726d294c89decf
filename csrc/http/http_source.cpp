#include "http/http_source.hpp"

#include <algorithm>
#include <utility>

#include "http/response.hpp"

namespace streamload {

Status HttpSource::make(std::shared_ptr<HttpClient> client, HttpObject::Facts facts, HttpRequest request,
                        HttpObject::Renew renew, std::shared_ptr<Source>& out) {
  const std::string origin = origin_of(request.url);
  if (!origin.starts_with("http://") && !origin.starts_with("https://")) {
    return Status::failure(Code::kInvalid, facts.url + ": the URL to request is not one of http or https");
  }
  const auto broken = [](const std::string& line) { return line.find_first_of("\r\n") != std::string::npos; };
  if (broken(facts.etag) || std::any_of(request.headers.begin(), request.headers.end(), broken)) {
    return Status::failure(Code::kInvalid, facts.url + ": a header of more than one line");
  }
  auto object = std::make_shared<HttpObject>(std::move(facts), std::move(request), std::move(renew));
  out = std::make_shared<HttpSource>(std::move(client), std::move(object));
  return {};
}

Status HttpSource::choose(std::uint64_t offset, std::size_t nbytes, Choice& out) noexcept {
  out = Choice{Route::kRemote, CacheState::kUnknown, false};
  const std::uint64_t length = object_->facts().nbytes;
  if (offset <= length && nbytes <= length - offset) return {};
  Status status = Status::failure(Code::kShortRead, url() + ": " + std::to_string(nbytes) + " bytes at offset " +
                                                        std::to_string(offset) + " of " + std::to_string(length));
  status.source = url();
  status.offset = offset;
  status.nbytes = nbytes;
  return status;
}

void HttpSource::fetch(std::uint64_t offset, std::vector<HostSpan> targets, std::stop_token stop,
                       FetchDone done) noexcept {
  auto fetch = std::make_shared<HttpFetch>(object_, offset, std::move(targets), std::move(stop), std::move(done));
  Choice choice;
  Status status = choose(offset, fetch->target.nbytes(), choice);
  if (!status.ok() || fetch->target.nbytes() == 0) return fetch->done(std::move(status), {});
  client_->fetch(fetch);
}

Status HttpSource::read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                        Choice& choice) noexcept {
  choice.route = Route::kRemote;
  out = buffer.first(nbytes);
  return fetch_and_wait(*this, offset, buffer.first(nbytes));
}

}  // namespace streamload
