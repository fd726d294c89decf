// What becomes of a fetch: attempts, rests, redirects, renewals, second requests, and how it ends.
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <utility>

#include "core/thread_cpu.hpp"
#include "http/http_loop.hpp"

namespace streamload {
namespace {

std::string seconds_text(double seconds) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.3g s", seconds);
  return text.data();
}

Code code_of(const TransferEnd& end) noexcept {
  switch (end.answer) {
    case Answer::kRefused: return Code::kPermission;
    case Answer::kMissing: return Code::kNotFound;
    case Answer::kChanged: return Code::kChanged;
    default: return end.fell_short ? Code::kShortRead : Code::kReadFailed;
  }
}

int errno_for(Code code, int error) noexcept {
  if (code == Code::kPermission) return EACCES;
  if (code == Code::kNotFound) return ENOENT;
  return code == Code::kReadFailed ? error : 0;
}

}  // namespace

// Sends a request for what is missing. On failure the fetch rests as after any other.
void HttpLoop::attempt(const std::shared_ptr<HttpFetch>& fetch) noexcept {
  const HttpObject::Facts& facts = fetch->object->facts();
  if (!fetch->request) fetch->request = fetch->object->request();
  const bool fresh = fetch->failure.error != 0 || fetch->failure.fell_short;
  const std::size_t missing = fetch->target.nbytes() - fetch->received;
  const Transfer::Part part{fetch->offset + fetch->received, missing, fetch->received,
                            fetch->target.nbytes() == facts.nbytes, fresh};
  fetch->first = Transfer::make(*connections_, {fetch->object, fetch->request, fetch->target, part}, now_);
  fetch->state = HttpFetch::State::kRunning;
  fetch->hedged = false;
  ++fetch->attempts;
  ++fetch->counts.requests;
  if (const auto code = fetch->first->start()) return settle(fetch, *fetch->first, *code);
  look_after_running(fetch);
}

void HttpLoop::hedge(HttpFetch& fetch) noexcept {
  fetch.hedged = true;  // once for each attempt
  const std::size_t position = fetch.first->reached();
  const std::size_t missing = fetch.target.nbytes() - position;
  if (missing == 0 || !pace_.may_hedge(missing)) return;
  fetch.spare.resize(missing);
  fetch.spare_target = std::make_unique<Scatter>(std::vector<HostSpan>{HostSpan(fetch.spare)});
  const Transfer::Part part{fetch.offset + position, missing, 0, false, true};
  fetch.second = Transfer::make(*connections_, {fetch.object, fetch.request, *fetch.spare_target, part}, now_);
  if (fetch.second->start()) return fetch.second.reset();
  ++fetch.counts.requests;
  ++fetch.counts.hedges;
}

// A request of the fetch has ended by itself.
void HttpLoop::settle(const std::shared_ptr<HttpFetch>& fetch, const Transfer& transfer, CurlCode code) noexcept {
  TransferEnd end = transfer.end(code);
  if (&transfer == fetch->second.get()) return settle_second(fetch, end);
  advance(*fetch);
  const int status = fetch->first->status();
  const auto took = now_ - fetch->first->began();
  const std::size_t asked_bytes = fetch->first->part().nbytes;
  fetch->first.reset();
  if (end.complete) {
    if (fetch->request->redirected) fetch->object->keep_redirect(fetch->request);
    pace_.completed(asked_bytes, took, now_);
    return finish(fetch, {});
  }
  if (fetch->second && end.answer == Answer::kRetry) {
    fetch->failure = std::move(end);
    return;  // the second may still make it
  }
  go_on(fetch, std::move(end), status);
}

void HttpLoop::settle_second(const std::shared_ptr<HttpFetch>& fetch, const TransferEnd& end) noexcept {
  const int status = fetch->second->status();
  if (end.complete) {
    const auto position = static_cast<std::size_t>(fetch->second->part().offset - fetch->offset);
    pace_.completed(fetch->spare.size(), now_ - fetch->second->began(), now_);
    fetch->first.reset();  // before anything is written where it writes
    fetch->second.reset();
    fetch->target.seek(position);
    fetch->target.write(fetch->spare);
    return finish(fetch, {});
  }
  fetch->second.reset();
  if (end.answer == Answer::kChanged || !fetch->first) go_on(fetch, end, status);
}

// Notes how far the first request has come.
void HttpLoop::advance(HttpFetch& fetch) noexcept {
  if (!fetch.first || fetch.first->reached() <= fetch.received) return;
  fetch.received = fetch.first->reached();
  fetch.object->mark_served();
  if (fetch.received - fetch.counted < kLeastProgress && fetch.received < fetch.target.nbytes()) return;
  fetch.counted = fetch.received;
  fetch.progress = std::max(fetch.progress, fetch.first->progress());
  fetch.fruitless = 0;
  fetch.redirects = 0;
  fetch.renewed = fetch.went_back = false;
}

// After an attempt that did not bring everything: another one, or the end.
void HttpLoop::go_on(const std::shared_ptr<HttpFetch>& fetch, TransferEnd end, int status) noexcept {
  fetch->first.reset();
  fetch->second.reset();
  const Answer answer = end.answer;
  fetch->failure = std::move(end);
  if (fetch->failure.stale) return repeat(fetch);  // at once, on a new connection
  switch (answer) {
    case Answer::kRedirect:
      if (follow(fetch, fetch->failure)) return;
      return give_up(fetch, Code::kReadFailed);
    case Answer::kRefused:
    case Answer::kMissing:
      if (ask_again(fetch, answer, status)) return;
      return give_up(fetch, code_of(fetch->failure));
    case Answer::kStrange:
      if (++fetch->strange < kMostStrange) return rest(fetch);
      return give_up(fetch, code_of(fetch->failure));
    case Answer::kThrottled: ++fetch->counts.throttled; [[fallthrough]];
    case Answer::kRetry: return rest(fetch);
    default: return give_up(fetch, code_of(fetch->failure));
  }
}

// By hand, so that what authorises goes to no other origin, and nothing from https to http.
bool HttpLoop::follow(const std::shared_ptr<HttpFetch>& fetch, const TransferEnd& end) noexcept {
  const std::string from = origin_of(fetch->request->url);
  const std::string to = origin_of(end.location);
  if (to.empty() || ++fetch->redirects > kMostRedirects) return false;
  if (from.starts_with("https:") && !to.starts_with("https:")) return false;
  auto request = std::make_shared<HttpRequest>(*fetch->request);
  request->url = end.location;
  request->redirected = true;
  if (from != to) request->headers.clear();
  fetch->request = std::move(request);
  fetch->failure = {};
  attempt(fetch);
  return true;
}

// Where a redirect led to a refusal, asks where it came from; else has the request renewed, once.
bool HttpLoop::ask_again(const std::shared_ptr<HttpFetch>& fetch, Answer answer, int status) noexcept {
  HttpObject& object = *fetch->object;
  if (fetch->request->redirected && !std::exchange(fetch->went_back, true)) {
    object.forget_redirect(*fetch->request);
    fetch->request = nullptr;
    fetch->failure = {};
    attempt(fetch);
    return true;
  }
  if (!object.can_renew() || fetch->renewed || (answer == Answer::kMissing && !object.served())) return false;
  fetch->renewed = true;
  ++fetch->counts.renewals;
  fetch->state = HttpFetch::State::kRenewing;
  look_at(*fetch, std::max(fetch->progress, now_) + from_seconds(object.facts().policy.retry_seconds));
  return shared_.aside->run([self = shared_from_this(), fetch, stale = fetch->request, status] {
    Status renewed = fetch->object->renew(*stale, status);
    {
      const std::lock_guard lock(self->mutex_);
      self->renewed_.push_back({fetch, std::move(renewed)});
    }
    self->connections_->wake();
  });
}

void HttpLoop::take_renewal(Renewed& renewed) noexcept {
  const auto& fetch = renewed.fetch;
  if (fetch->state != HttpFetch::State::kRenewing) return;  // it is done with
  if (!renewed.status.ok()) {
    renewed.status.source = fetch->object->facts().url;
    return finish(fetch, std::move(renewed.status));
  }
  fetch->progress = now_;
  repeat(fetch);
}

// Once more, for what is missing, as the object says by now.
void HttpLoop::repeat(const std::shared_ptr<HttpFetch>& fetch) noexcept {
  fetch->request = nullptr;
  ++fetch->counts.retries;
  if (fetch->received > 0) ++fetch->counts.resumes;
  attempt(fetch);
}

void HttpLoop::rest(const std::shared_ptr<HttpFetch>& fetch) noexcept {
  const RetryPolicy& policy = fetch->object->facts().policy;
  constexpr double kSteps = 1 << 20;
  const double random = static_cast<double>(random_() % static_cast<unsigned>(kSteps)) / kSteps;
  const auto pause = rest_before_retry(policy, fetch->fruitless++, random, fetch->failure.retry_after);
  if (now_ + pause > fetch->progress + from_seconds(policy.retry_seconds)) {
    return give_up(fetch, code_of(fetch->failure));
  }
  fetch->state = HttpFetch::State::kResting;
  look_at(*fetch, now_ + pause);
}

void HttpLoop::look_after(const std::shared_ptr<HttpFetch>& fetch) noexcept {
  if (now_ < fetch->due) return look_at(*fetch, fetch->due);
  if (fetch->state == HttpFetch::State::kRunning) {
    // What came, and was too little to be woken for, before anything is called slow.
    if (!read_rest(fetch)) look_after_running(fetch);
    return;
  }
  if (fetch->state == HttpFetch::State::kRenewing) {
    fetch->failure = {.answer = Answer::kFailed, .error = ETIMEDOUT, .text = "no new URL came in time"};
    return give_up(fetch, Code::kReadFailed);
  }
  repeat(fetch);
}

// Whether the fetch is done with, or with another attempt, by what had come.
bool HttpLoop::read_rest(const std::shared_ptr<HttpFetch>& fetch) noexcept {
  for (Transfer* transfer : {fetch->first.get(), fetch->second.get()}) {
    if (transfer == nullptr) continue;
    if (const auto code = transfer->on_ready()) {
      settle(fetch, *transfer, *code);
      return true;
    }
  }
  return false;
}

// Ends requests that stall, doubles those that are slow, and says when to look again.
void HttpLoop::look_after_running(const std::shared_ptr<HttpFetch>& fetch) noexcept {
  const RetryPolicy& policy = fetch->object->facts().policy;
  const auto stall = from_seconds(policy.stall_seconds);
  if (fetch->second && now_ - fetch->second->progress() >= stall) fetch->second.reset();
  advance(*fetch);
  const auto deadline = fetch->progress + from_seconds(policy.retry_seconds);
  Clock::time_point due = deadline;
  if (fetch->first) {
    const auto stalled_at = fetch->first->progress() + stall;
    if (now_ >= stalled_at || now_ >= deadline) {
      const double waited = std::chrono::duration<double>(now_ - fetch->first->progress()).count();
      const char* what = fetch->first->drips() ? "less than 1 KiB in " : "no byte for ";
      TransferEnd end{.answer = Answer::kRetry, .error = ETIMEDOUT, .text = what + seconds_text(waited)};
      // An attempt that time ran out for says less than the one before it.
      if (now_ < stalled_at && fetch->attempts > 1 && !fetch->failure.text.empty()) end = fetch->failure;
      if (!fetch->second) return go_on(fetch, std::move(end), 0);
      fetch->failure = std::move(end);
      fetch->first.reset();
    } else {
      due = std::min(stalled_at, deadline);
    }
  }
  if (fetch->first && policy.hedge && !fetch->hedged) {
    if (const auto slow = pace_.slow_after(fetch->first->part().nbytes)) {
      const auto slow_at = fetch->first->began() + *slow;
      if (now_ >= slow_at) {
        hedge(*fetch);
      } else {
        due = std::min(due, slow_at);
      }
    }
  }
  if (fetch->second) due = std::min(due, fetch->second->progress() + stall);
  if (!fetch->first && !fetch->second) return go_on(fetch, std::move(fetch->failure), 0);
  look_at(*fetch, due);
}

void HttpLoop::give_up(const std::shared_ptr<HttpFetch>& fetch, Code code) noexcept {
  const HttpObject::Facts& facts = fetch->object->facts();
  const std::size_t nbytes = fetch->target.nbytes();
  std::string text = facts.url + ": reading " + std::to_string(nbytes) + " bytes at offset " +
                     std::to_string(fetch->offset) + ": " + fetch->failure.text;
  if (fetch->received > 0) text += "; got " + std::to_string(fetch->received) + " bytes";
  if (fetch->failure.retry_after > 0) text += "; the server asks to wait " + seconds_text(fetch->failure.retry_after);
  text += "; " + std::to_string(fetch->attempts) + (fetch->attempts == 1 ? " attempt" : " attempts");
  finish(fetch, Status::failure(code, std::move(text), errno_for(code, fetch->failure.error)));
}

void HttpLoop::finish(const std::shared_ptr<HttpFetch>& fetch, Status status) noexcept {
  // It may be an element of what it is erased from.
  const std::shared_ptr<HttpFetch> kept = fetch;  // NOLINT(performance-unnecessary-copy-initialization)
  kept->first.reset();
  kept->second.reset();
  std::erase(fetches_, kept);
  kept->state = HttpFetch::State::kDone;
  kept->on_stop.reset();
  if (!status.ok()) {
    if (status.source.empty()) status.source = kept->object->facts().url;
    status.offset = kept->offset;
    status.nbytes = kept->target.nbytes();
  }
  const double cpu = thread_cpu_seconds();
  kept->counts.cpu_seconds = cpu - std::exchange(cpu_seconds_, cpu);
  --outstanding_;
  pace_.closed();
  const FetchDone done = std::move(kept->done);
  done(std::move(status), kept->counts);
}

}  // namespace streamload
