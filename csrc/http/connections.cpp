#include "http/connections.hpp"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <climits>
#include <system_error>
#include <utility>

#include "http/transfer.hpp"
#include "io/interrupted.hpp"

namespace streamload {
namespace {

constexpr std::size_t kEventsAtOnce = 64;
constexpr std::size_t kMostIdleConnections = 256;

// What an event is for: a socket of libcurl's, or, with this bit, one that was taken over; or the eventfd.
constexpr std::uint64_t kTaken = std::uint64_t{1} << 32U;
constexpr std::uint64_t kWake = std::uint64_t{1} << 33U;

Status no_room(const char* what) {
  const int error = errno;
  return Status::failure(Code::kReadFailed,
                         std::string("no HTTP client: ") + what + ": " + std::system_category().message(error), error);
}

std::uint64_t tag_of(int socket) noexcept { return static_cast<std::uint32_t>(socket); }

// Open, and with nothing in it that nobody asked for.
bool is_clean(int socket) noexcept {
  char byte = 0;
  const ssize_t got = retry_interrupted([&] { return ::recv(socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT); });
  return got < 0 && (errno == EAGAIN || errno == EWOULDBLOCK);
}

}  // namespace

Status Connections::make(std::shared_ptr<const CurlLibrary> curl, bool take_over, std::unique_ptr<Connections>& out) {
  auto made = std::make_unique<Connections>(std::move(curl), take_over);
  made->epoll_ = UniqueFd(::epoll_create1(EPOLL_CLOEXEC));
  if (!made->epoll_) return no_room("epoll_create1");
  made->wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!made->wake_) return no_room("eventfd");
  epoll_event woken{EPOLLIN, {.u64 = kWake}};
  if (::epoll_ctl(made->epoll_.get(), EPOLL_CTL_ADD, made->wake_.get(), &woken) != 0) return no_room("epoll_ctl");
  made->multi_ = made->curl_->multi_init();
  if (made->multi_ == nullptr) return Status::failure(Code::kOutOfHostMemory, "no HTTP client: curl_multi_init failed");
  const auto set = [&](CurlMultiOption option, auto value) { made->curl_->multi_setopt(made->multi_, option, value); };
  set(CurlMultiOption::kSocketFunction, &Connections::on_socket);
  set(CurlMultiOption::kSocketData, static_cast<void*>(made.get()));
  set(CurlMultiOption::kTimerFunction, &Connections::on_timer);
  set(CurlMultiOption::kTimerData, static_cast<void*>(made.get()));
  set(CurlMultiOption::kMaxConnects, static_cast<long>(kMostIdleConnections));
  out = std::move(made);
  return {};
}

Connections::~Connections() {
  for (CurlEasy* easy : easies_) curl_->easy_cleanup(easy);
  if (multi_ != nullptr) curl_->multi_cleanup(multi_);
}

// libcurl says which of its sockets it waits for.
int Connections::on_socket(CurlEasy* /*easy*/, CurlSocket socket, int what, void* self, void* /*unused*/) noexcept {
  auto& connections = *static_cast<Connections*>(self);
  if (what == kCurlPollRemove) {
    ::epoll_ctl(connections.epoll_.get(), EPOLL_CTL_DEL, socket, nullptr);
  } else {
    const std::uint32_t events = ((what & 1) != 0 ? EPOLLIN : 0U) | ((what & 2) != 0 ? EPOLLOUT : 0U);
    connections.arm(socket, events, tag_of(socket));
  }
  return 0;
}

int Connections::on_timer(CurlMulti* /*multi*/, long timeout_ms, void* self) noexcept {
  static_cast<Connections*>(self)->curl_due_ =
      timeout_ms < 0 ? Clock::time_point::max() : Clock::now() + std::chrono::milliseconds(timeout_ms);
  return 0;
}

// Where the kernel has no room for one more, its transfer ends as one that stalls.
void Connections::arm(int socket, std::uint32_t events, std::uint64_t tag) noexcept {
  epoll_event event{events, {.u64 = tag}};
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, socket, &event) == 0 || errno != ENOENT) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket, &event);
}

void Connections::wake() noexcept {
  if (woken_.exchange(true)) return;
  const std::uint64_t one = 1;
  static_cast<void>(retry_interrupted([&] { return ::write(wake_.get(), &one, sizeof one); }));
}

int Connections::most_milliseconds(Clock::time_point due) const noexcept {
  due = std::min(due, curl_due_);
  if (due == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(due - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, INT_MAX));
}

bool Connections::turn(Clock::time_point due, Clock::time_point& now, const Ended& ended) noexcept {
  std::array<epoll_event, kEventsAtOnce> events;  // NOLINT(cppcoreguidelines-pro-type-member-init): the kernel's
  const int count = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), most_milliseconds(due));
  now = Clock::now();
  for (int i = 0; i < count; ++i) {
    const epoll_event& event = events[static_cast<std::size_t>(i)];
    take_event(event.data.u64, event.events, ended);
  }
  if (now >= curl_due_) {
    int running = 0;
    curl_due_ = Clock::time_point::max();
    curl_->multi_socket_action(multi_, kCurlSocketTimeout, 0, &running);
  }
  take_messages(ended);
  if (!woken_) return false;
  std::uint64_t times = 0;
  static_cast<void>(retry_interrupted([&] { return ::read(wake_.get(), &times, sizeof times); }));
  woken_ = false;  // before anybody looks: what comes later wakes again
  return true;
}

void Connections::take_event(std::uint64_t tag, std::uint32_t events, const Ended& ended) noexcept {
  if (tag == kWake) return;
  const int socket = static_cast<int>(tag & (kTaken - 1));
  if ((tag & kTaken) == 0) {
    int bits = (events & EPOLLIN) != 0 ? kCurlSelectIn : 0;
    bits |= (events & EPOLLOUT) != 0 ? kCurlSelectOut : 0;
    bits |= (events & (EPOLLERR | EPOLLHUP)) != 0 ? kCurlSelectError : 0;
    int running = 0;
    curl_->multi_socket_action(multi_, socket, bits, &running);
    return;
  }
  const auto found = watched_.find(socket);
  if (found == watched_.end()) return;  // closed by what an event before this one did
  Transfer* transfer = found->second;
  if (transfer != nullptr) {
    if (const auto code = transfer->on_ready()) ended(*transfer, *code);
    return;
  }
  // The server ends an idle connection, or says something that nobody asked for.
  const auto idle =
      std::find_if(idle_.begin(), idle_.end(), [&](const Idle& one) { return one.socket.get() == socket; });
  UniqueFd gone = std::move(idle->socket);
  idle_.erase(idle);
  close(std::move(gone));
}

void Connections::take_messages(const Ended& ended) noexcept {
  int left = 0;
  while (const CurlMessage* message = curl_->multi_info_read(multi_, &left)) {
    if (message->kind != kCurlMessageDone) continue;
    const CurlCode result = message->data.result;
    void* found = nullptr;
    curl_->easy_getinfo(message->easy, CurlInfo::kPrivate, &found);
    auto* transfer = static_cast<Transfer*>(found);
    if (const auto code = transfer->on_message(result)) ended(*transfer, *code);
  }
}

// libcurl makes its receive buffer anew for every request. At the end of a thread's heap what is freed goes back to the
// system and is faulted in again, page by page; so a part of the heap is used once, and what is behind it kept.
void Connections::warm_heap() {
  constexpr std::size_t kHeapBytes = 8 << 20;
  constexpr std::size_t kBlockBytes = 64 << 10;  // below what malloc takes from the system for itself
  if (heap_end_) return;
  std::vector<std::unique_ptr<std::byte[]>> blocks(kHeapBytes / kBlockBytes);
  for (auto& block : blocks) block = std::make_unique_for_overwrite<std::byte[]>(kBlockBytes);
  heap_end_ = std::make_unique_for_overwrite<std::byte[]>(kBlockBytes);
}

CurlEasy* Connections::take_easy() noexcept {
  if (easies_.empty()) return curl_->easy_init();
  CurlEasy* easy = easies_.back();
  easies_.pop_back();
  return easy;
}

bool Connections::start(CurlEasy* easy) noexcept { return curl_->multi_add_handle(multi_, easy) == 0; }

// From here on libcurl touches neither the handle's transfer nor what that writes to.
void Connections::give_back(CurlEasy* easy) noexcept {
  curl_->multi_remove_handle(multi_, easy);
  curl_->easy_reset(easy);
  easies_.push_back(easy);
}

UniqueFd Connections::take_idle(const std::string& origin) noexcept {
  for (std::size_t i = idle_.size(); i-- > 0;) {
    if (idle_[i].origin != origin) continue;
    UniqueFd socket = std::move(idle_[i].socket);
    idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(i));
    if (is_clean(socket.get())) return socket;
    close(std::move(socket));
  }
  return {};
}

void Connections::keep_idle(UniqueFd socket, const std::string& origin) noexcept {
  if (idle_.size() == kMostIdleConnections) {
    close(std::move(idle_.front().socket));
    idle_.erase(idle_.begin());
  }
  watched_[socket.get()] = nullptr;
  arm(socket.get(), EPOLLIN, kTaken | tag_of(socket.get()));
  idle_.push_back({std::move(socket), origin});
}

void Connections::watch(const UniqueFd& socket, Transfer& transfer, bool for_room) noexcept {
  watched_[socket.get()] = &transfer;
  arm(socket.get(), EPOLLIN | (for_room ? EPOLLOUT : 0U), kTaken | tag_of(socket.get()));
}

// Taken out of epoll by hand: a forked process may keep the connection open.
void Connections::close(UniqueFd socket) noexcept {
  if (!socket) return;
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, socket.get(), nullptr);
  watched_.erase(socket.get());
}

}  // namespace streamload
