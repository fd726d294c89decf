// A remote object as a source: its reads are fetched over HTTP.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "http/http_client.hpp"
#include "io/source.hpp"

namespace streamload {

class HttpSource final : public Source {
 public:
  HttpSource(std::shared_ptr<HttpClient> client, std::shared_ptr<HttpObject> object)
      : client_(std::move(client)), object_(std::move(object)) {}

  // kInvalid where the URL is not one of http or https, or a header is not one line.
  [[nodiscard]] static Status make(std::shared_ptr<HttpClient> client, HttpObject::Facts facts, HttpRequest request,
                                   HttpObject::Renew renew, std::shared_ptr<Source>& out);

  [[nodiscard]] const std::string& url() const noexcept override { return object_->facts().url; }
  [[nodiscard]] Status choose(std::uint64_t offset, std::size_t nbytes, Choice& out) noexcept override;
  [[nodiscard]] Status read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                            Choice& choice) noexcept override;
  [[nodiscard]] bool fetches() const noexcept override { return true; }
  [[nodiscard]] bool has_room() const noexcept override { return client_->has_room(); }
  void fetch(std::uint64_t offset, std::vector<HostSpan> targets, std::stop_token stop,
             FetchDone done) noexcept override;

 private:
  const std::shared_ptr<HttpClient> client_;
  const std::shared_ptr<HttpObject> object_;
};

}  // namespace streamload
