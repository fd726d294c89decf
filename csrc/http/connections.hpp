// What the transfers of one loop share: libcurl's handles, and connections with what waits for them.
//
// libcurl resolves names and connects, and where there is TLS it receives too, through the multi interface over epoll.
// A connection without TLS is taken over once it stands: its bytes go from the kernel straight into their place, where
// libcurl would copy them once more. All of it belongs to the loop's thread, except wake().
#pragma once

#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/status.hpp"
#include "core/unique_fd.hpp"
#include "http/curl_library.hpp"

namespace streamload {

class Transfer;

class Connections {
 public:
  using Clock = std::chrono::steady_clock;
  using Ended = std::function<void(Transfer& transfer, CurlCode code)>;

  // Fails where the system or libcurl has no room for another.
  [[nodiscard]] static Status make(std::shared_ptr<const CurlLibrary> curl, bool take_over,
                                   std::unique_ptr<Connections>& out);
  Connections(std::shared_ptr<const CurlLibrary> curl, bool take_over) noexcept
      : curl_(std::move(curl)), takes_over_(take_over) {}
  Connections(const Connections&) = delete;
  Connections& operator=(const Connections&) = delete;
  ~Connections();

  [[nodiscard]] const CurlLibrary& curl() const noexcept { return *curl_; }
  [[nodiscard]] bool takes_over() const noexcept { return takes_over_; }

  // From any thread, without a lock: makes turn() return true, soon.
  void wake() noexcept;
  // Waits for something to happen, until `due` at most; sets `now` when it has, lets transfers read, and names those
  // that ended. Whether wake() was called since it last said so.
  [[nodiscard]] bool turn(Clock::time_point due, Clock::time_point& now, const Ended& ended) noexcept;

  // Readies the heap for requests that libcurl does; once, on the loop's thread.
  void warm_heap();
  // A handle without options, null where libcurl has none; start() runs it, give_back() ends that, at any time.
  [[nodiscard]] CurlEasy* take_easy() noexcept;
  [[nodiscard]] bool start(CurlEasy* easy) noexcept;
  void give_back(CurlEasy* easy) noexcept;

  // A connection to `origin` that a transfer was done with, empty where there is none.
  [[nodiscard]] UniqueFd take_idle(const std::string& origin) noexcept;
  void keep_idle(UniqueFd socket, const std::string& origin) noexcept;
  // From here on the transfer is told when there is something to receive, or room to send.
  void watch(const UniqueFd& socket, Transfer& transfer, bool for_room) noexcept;
  void close(UniqueFd socket) noexcept;

 private:
  static int on_socket(CurlEasy* easy, CurlSocket socket, int what, void* self, void* unused) noexcept;
  static int on_timer(CurlMulti* multi, long timeout_ms, void* self) noexcept;
  [[nodiscard]] int most_milliseconds(Clock::time_point due) const noexcept;
  void take_event(std::uint64_t tag, std::uint32_t events, const Ended& ended) noexcept;
  void take_messages(const Ended& ended) noexcept;
  void arm(int socket, std::uint32_t events, std::uint64_t tag) noexcept;

  struct Idle {
    UniqueFd socket;
    std::string origin;
  };

  const std::shared_ptr<const CurlLibrary> curl_;
  const bool takes_over_;
  UniqueFd epoll_;
  UniqueFd wake_;  // an eventfd
  std::atomic<bool> woken_{false};

  CurlMulti* multi_ = nullptr;
  Clock::time_point curl_due_ = Clock::time_point::max();
  std::vector<CurlEasy*> easies_;
  std::unique_ptr<std::byte[]> heap_end_;
  std::unordered_map<int, Transfer*> watched_;  // null: idle
  std::vector<Idle> idle_;                      // the latest last
};

}  // namespace streamload
