#include "http/http_loop.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <iterator>
#include <system_error>
#include <utility>

#include "core/background_thread.hpp"
#include "io/interrupted.hpp"

namespace streamload {
namespace {

constexpr std::size_t kEventsAtOnce = 64;
constexpr long kMostIdleConnections = 256;
constexpr std::size_t kHeapBytes = 8 << 20;

Status no_loop(const char* what) {
  const int error = errno;
  return Status::failure(Code::kReadFailed,
                         std::string("no HTTP client: ") + what + ": " + std::system_category().message(error), error);
}

Status closed() { return Status::failure(Code::kClosed, "the HTTP client is closed"); }

}  // namespace

HttpLoop::HttpLoop(Shared shared, std::size_t index) noexcept
    : shared_(std::move(shared)),
      curl_(*shared_.curl),
      pace_(*shared_.pace),
      index_(index),
      random_(static_cast<std::minstd_rand::result_type>(now_.time_since_epoch().count() + ::getpid()) | 1U) {}

HttpLoop::~HttpLoop() {
  for (CurlEasy* easy : idle_) curl_.easy_cleanup(easy);
  if (multi_ != nullptr) curl_.multi_cleanup(multi_);
}

Status HttpLoop::make(Shared shared, std::size_t index, std::shared_ptr<HttpLoop>& out) {
  auto loop = std::make_shared<HttpLoop>(std::move(shared), index);
  loop->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!loop->epoll_) return no_loop("epoll_create1");
  loop->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!loop->wake_) return no_loop("eventfd");
  epoll_event woken{EPOLLIN, {.fd = loop->wake_.get()}};
  if (::epoll_ctl(loop->epoll_.get(), EPOLL_CTL_ADD, loop->wake_.get(), &woken) != 0) return no_loop("epoll_ctl");
  loop->multi_ = loop->curl_.multi_init();
  if (loop->multi_ == nullptr) return Status::failure(Code::kOutOfHostMemory, "no HTTP client: curl_multi_init failed");
  const auto set = [&](CurlMultiOption option, auto value) { loop->curl_.multi_setopt(loop->multi_, option, value); };
  set(CurlMultiOption::kSocketFunction, &HttpLoop::on_socket);
  set(CurlMultiOption::kSocketData, static_cast<void*>(loop.get()));
  set(CurlMultiOption::kTimerFunction, &HttpLoop::on_timer);
  set(CurlMultiOption::kTimerData, static_cast<void*>(loop.get()));
  set(CurlMultiOption::kMaxConnects, kMostIdleConnections);
  out = std::move(loop);
  return {};
}

// libcurl says which of its sockets it waits for.
int HttpLoop::on_socket(CurlEasy* /*easy*/, CurlSocket socket, int what, void* self, void* /*unused*/) noexcept {
  const int epoll = static_cast<HttpLoop*>(self)->epoll_.get();
  if (what == kCurlPollRemove) {
    ::epoll_ctl(epoll, EPOLL_CTL_DEL, socket, nullptr);
    return 0;
  }
  epoll_event event{((what & 1) != 0 ? EPOLLIN : 0U) | ((what & 2) != 0 ? EPOLLOUT : 0U), {.fd = socket}};
  if (::epoll_ctl(epoll, EPOLL_CTL_MOD, socket, &event) == 0 || errno != ENOENT) return 0;
  // Where the kernel has no room for one more, its transfer ends as one that stalls.
  ::epoll_ctl(epoll, EPOLL_CTL_ADD, socket, &event);
  return 0;
}

int HttpLoop::on_timer(CurlMulti* /*multi*/, long timeout_ms, void* self) noexcept {
  auto& loop = *static_cast<HttpLoop*>(self);
  loop.curl_due_ = timeout_ms < 0 ? Clock::time_point::max() : Clock::now() + std::chrono::milliseconds(timeout_ms);
  return 0;
}

void HttpLoop::submit(const std::shared_ptr<HttpFetch>& fetch) noexcept {
  bool ended = false;
  {
    const std::lock_guard lock(mutex_);
    ended = ended_;
    if (!ended) {
      ++outstanding_;
      pace_.opened();
      fetch->on_stop.emplace(fetch->stop, [this] { wake(); });
      submitted_.push_back(fetch);
    }
  }
  if (ended) return fetch->done(closed(), {});
  wake();
}

void HttpLoop::stop() noexcept {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake();
}

// Takes no lock: a stop may be requested by whoever holds any.
void HttpLoop::wake() noexcept {
  if (woken_.exchange(true)) return;
  const std::uint64_t one = 1;
  static_cast<void>(retry_interrupted([&] { return ::write(wake_.get(), &one, sizeof one); }));
}

// libcurl makes its receive buffer anew for every request. At the end of a thread's heap what is freed goes back to the
// system and is faulted in again, page by page; so a part of the heap is used once, and what is behind it kept.
std::unique_ptr<std::byte[]> HttpLoop::warm_heap() {
  constexpr std::size_t kBlockBytes = 64 << 10;  // below what malloc takes from the system for itself
  constexpr std::size_t kBlocks = kHeapBytes / kBlockBytes;
  std::vector<std::unique_ptr<std::byte[]>> blocks(kBlocks);
  for (auto& block : blocks) block = std::make_unique_for_overwrite<std::byte[]>(kBlockBytes);
  return std::make_unique_for_overwrite<std::byte[]>(kBlockBytes);
}

void HttpLoop::run() noexcept {
  stay_in_background("streamload-http");
  const std::unique_ptr<std::byte[]> behind = warm_heap();
  while (turn()) {
  }
}

bool HttpLoop::turn() noexcept {
  wait_for_events();
  take_messages();
  collect();
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

int HttpLoop::most_milliseconds() const noexcept {
  const Clock::time_point due = std::min(curl_due_, look_due_);
  if (due == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(due - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, INT_MAX));
}

void HttpLoop::wait_for_events() noexcept {
  std::array<epoll_event, kEventsAtOnce> events;  // NOLINT(cppcoreguidelines-pro-type-member-init): the kernel's
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), most_milliseconds());
  now_ = Clock::now();
  int running = 0;
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    if (event.data.fd == wake_.get()) continue;
    int bits = (event.events & EPOLLIN) != 0 ? kCurlSelectIn : 0;
    bits |= (event.events & EPOLLOUT) != 0 ? kCurlSelectOut : 0;
    bits |= (event.events & (EPOLLERR | EPOLLHUP)) != 0 ? kCurlSelectError : 0;
    curl_.multi_socket_action(multi_, event.data.fd, bits, &running);
  }
  if (now_ >= curl_due_) {
    curl_due_ = Clock::time_point::max();
    curl_.multi_socket_action(multi_, kCurlSocketTimeout, 0, &running);
  }
}

void HttpLoop::take_messages() noexcept {
  if (!woken_) return;
  std::uint64_t count = 0;
  static_cast<void>(retry_interrupted([&] { return ::read(wake_.get(), &count, sizeof count); }));
  woken_ = false;  // before looking: what comes later wakes again
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

void HttpLoop::collect() noexcept {
  int left = 0;
  while (const CurlMessage* message = curl_.multi_info_read(multi_, &left)) {
    if (message->kind != kCurlMessageDone) continue;
    const CurlCode code = message->data.result;
    void* found = nullptr;
    curl_.easy_getinfo(message->easy, CurlInfo::kPrivate, &found);
    auto* transfer = static_cast<Transfer*>(found);
    const auto mine = [&](const auto& fetch) {
      return fetch->first.get() == transfer || fetch->second.get() == transfer;
    };
    const auto fetch = std::find_if(fetches_.begin(), fetches_.end(), mine);
    if (fetch != fetches_.end()) settle(std::shared_ptr(*fetch), transfer, code);
  }
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

CurlEasy* HttpLoop::take_easy() noexcept {
  if (idle_.empty()) return curl_.easy_init();
  CurlEasy* easy = idle_.back();
  idle_.pop_back();
  return easy;
}

bool HttpLoop::launch(Transfer& transfer) noexcept {
  return transfer.prepare() == CurlCode::kOk && curl_.multi_add_handle(multi_, transfer.easy()) == 0;
}

// From here on libcurl touches neither the transfer nor what it writes to.
void HttpLoop::release(std::unique_ptr<Transfer>& transfer) noexcept {
  if (!transfer) return;
  CurlEasy* easy = transfer->easy();
  curl_.multi_remove_handle(multi_, easy);
  curl_.easy_reset(easy);
  idle_.push_back(easy);
  transfer.reset();
}

void HttpLoop::look_at(HttpFetch& fetch, Clock::time_point when) noexcept {
  fetch.due = when;
  look_due_ = std::min(look_due_, when);
}

}  // namespace streamload
