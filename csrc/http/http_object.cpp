#include "http/http_object.hpp"

#include <utility>

namespace streamload {

HttpObject::HttpObject(Facts facts, HttpRequest request, Renew renew)
    : facts_(std::move(facts)),
      renew_(std::move(renew)),
      base_(std::make_shared<const HttpRequest>(std::move(request))) {}

std::shared_ptr<const HttpRequest> HttpObject::request() const {
  const std::lock_guard lock(mutex_);
  return redirect_ ? redirect_ : base_;
}

void HttpObject::keep_redirect(const std::shared_ptr<const HttpRequest>& request) {
  const std::lock_guard lock(mutex_);
  if (request->generation == base_->generation) redirect_ = request;
}

void HttpObject::forget_redirect(const HttpRequest& stale) {
  const std::lock_guard lock(mutex_);
  if (redirect_ && redirect_->url == stale.url) redirect_.reset();
}

Status HttpObject::renew(const HttpRequest& stale, int status) {
  const std::lock_guard renewing(renewing_);
  if (!failure_.ok()) return failure_;
  {
    const std::lock_guard lock(mutex_);
    if (base_->generation != stale.generation) return {};
  }
  HttpRequest fresh;
  failure_ = renew_(status, fresh);
  if (!failure_.ok()) return failure_;
  fresh.generation = stale.generation + 1;
  const std::lock_guard lock(mutex_);
  base_ = std::make_shared<const HttpRequest>(std::move(fresh));
  redirect_.reset();
  return {};
}

}  // namespace streamload
