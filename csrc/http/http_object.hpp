// One remote object as it was when it was opened, and how to ask for it now. Thread-safe.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/status.hpp"
#include "http/retry_policy.hpp"

namespace streamload {

struct HttpRequest {
  std::string url;                   // may carry a signature: never in an error
  std::vector<std::string> headers;  // "Name: value"; none where a redirect led to another origin
  unsigned generation = 0;           // how often it was renewed
  bool redirected = false;
};

class HttpObject {
 public:
  struct Facts {
    std::string url;  // what errors call it
    std::uint64_t nbytes = 0;
    std::string etag;     // empty where it has none
    std::string ca_file;  // empty for the system's
    RetryPolicy policy;
  };
  // Answers what to ask for from now on; `status`: the answer that says that it has to be renewed. May block.
  using Renew = std::function<Status(int status, HttpRequest& out)>;

  HttpObject(Facts facts, HttpRequest request, Renew renew);

  [[nodiscard]] const Facts& facts() const noexcept { return facts_; }
  [[nodiscard]] std::shared_ptr<const HttpRequest> request() const;
  // A redirect led to bytes: others go there at once, until it is forgotten.
  void keep_redirect(const std::shared_ptr<const HttpRequest>& request);
  void forget_redirect(const HttpRequest& stale);

  [[nodiscard]] bool can_renew() const noexcept { return renew_ != nullptr; }
  // Renews what `stale` says unless somebody has; a renewal that failed is not tried again. May block.
  [[nodiscard]] Status renew(const HttpRequest& stale, int status);

  [[nodiscard]] bool served() const noexcept { return served_; }  // some of its bytes, once
  void mark_served() noexcept { served_ = true; }

 private:
  const Facts facts_;
  const Renew renew_;
  std::atomic<bool> served_{false};

  std::mutex renewing_;  // one at a time; guards failure_
  Status failure_;

  mutable std::mutex mutex_;  // guards both below
  std::shared_ptr<const HttpRequest> base_;
  std::shared_ptr<const HttpRequest> redirect_;
};

}  // namespace streamload
