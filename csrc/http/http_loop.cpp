#include "http/http_loop.hpp"

#include <unistd.h>

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/background_thread.hpp"

namespace streamload {
namespace {

Status closed() { return Status::failure(Code::kClosed, "the HTTP client is closed"); }

}  // namespace

HttpLoop::HttpLoop(Shared shared, std::size_t index, std::unique_ptr<Connections> connections) noexcept
    : shared_(std::move(shared)),
      pace_(*shared_.pace),
      index_(index),
      connections_(std::move(connections)),
      random_(static_cast<std::minstd_rand::result_type>(now_.time_since_epoch().count() + ::getpid()) | 1U) {}

Status HttpLoop::make(Shared shared, std::size_t index, std::shared_ptr<HttpLoop>& out) {
  std::unique_ptr<Connections> connections;
  if (Status status = Connections::make(shared.curl, shared.take_over, connections); !status.ok()) return status;
  out = std::make_shared<HttpLoop>(std::move(shared), index, std::move(connections));
  return {};
}

void HttpLoop::submit(const std::shared_ptr<HttpFetch>& fetch) noexcept {
  bool ended = false;
  {
    const std::lock_guard lock(mutex_);
    ended = ended_;
    if (!ended) {
      ++outstanding_;
      pace_.opened();
      fetch->on_stop.emplace(fetch->stop, [this] { connections_->wake(); });
      submitted_.push_back(fetch);
    }
  }
  if (ended) return fetch->done(closed(), {});
  connections_->wake();
}

void HttpLoop::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  connections_->wake();
}

void HttpLoop::run() noexcept {
  stay_in_background("streamload-http");
  while (turn()) {
  }
}

bool HttpLoop::turn() noexcept {
  const auto ended = [this](const Transfer& transfer, CurlCode code) { take_ended(transfer, code); };
  if (connections_->turn(look_due_, now_, ended)) take_messages();
  if (now_ >= look_due_) {
    look_due_ = Clock::time_point::max();
    const auto fetches = fetches_;  // they come and go meanwhile
    for (const auto& fetch : fetches) {
      if (fetch->state != HttpFetch::State::kDone) look_after(fetch);
    }
  }
  start_waiting();
  if (!closing_ || outstanding_ != 0) return true;
  const std::lock_guard lock(mutex_);
  ended_ = submitted_.empty();
  return !ended_;
}

void HttpLoop::take_messages() noexcept {
  std::vector<std::shared_ptr<HttpFetch>> submitted;
  std::vector<Renewed> renewed;
  {
    const std::lock_guard lock(mutex_);
    submitted.swap(submitted_);
    renewed.swap(renewed_);
    closing_ = stopping_;
  }
  std::move(submitted.begin(), submitted.end(), std::back_inserter(waiting_));
  for (Renewed& one : renewed) take_renewal(one);
  sweep();
}

// Ends what is not wanted any more.
void HttpLoop::sweep() noexcept {
  std::vector<std::shared_ptr<HttpFetch>> all = fetches_;
  all.insert(all.end(), waiting_.begin(), waiting_.end());
  for (const auto& fetch : all) {
    if (fetch->state == HttpFetch::State::kDone) continue;
    if (closing_) {
      finish(fetch, closed());
    } else if (fetch->stop.stop_requested()) {
      finish(fetch, Status::failure(Code::kCancelled, "the read was cancelled"));
    }
  }
}

void HttpLoop::take_ended(const Transfer& transfer, CurlCode code) noexcept {
  const auto mine = [&](const auto& fetch) {
    return fetch->first.get() == &transfer || fetch->second.get() == &transfer;
  };
  const auto fetch = std::find_if(fetches_.begin(), fetches_.end(), mine);
  if (fetch != fetches_.end()) settle(std::shared_ptr(*fetch), transfer, code);
}

std::size_t HttpLoop::share() const noexcept {
  const std::size_t depth = pace_.depth();
  return depth / shared_.loops + (index_ < depth % shared_.loops ? 1 : 0);
}

void HttpLoop::start_waiting() noexcept {
  while (!waiting_.empty() && fetches_.size() < std::max<std::size_t>(share(), 1)) {
    std::shared_ptr<HttpFetch> fetch = std::move(waiting_.front());
    waiting_.pop_front();
    if (fetch->state == HttpFetch::State::kDone) continue;  // it was stopped
    fetches_.push_back(fetch);
    fetch->progress = now_;
    attempt(fetch);
  }
}

void HttpLoop::look_at(HttpFetch& fetch, Clock::time_point when) noexcept {
  fetch.due = when;
  look_due_ = std::min(look_due_, when);
}

}  // namespace streamload
