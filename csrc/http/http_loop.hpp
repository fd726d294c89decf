// One thread that runs many transfers.
//
//   others:     submit a fetch, or request its stop → a message, and the thread is woken
//   the thread: starts requests, as many as its share of the pace allows → transfers write bytes into place →
//               judges how each ended → done, or another attempt after a rest, a redirect or a renewal
//
// No lock is held while libcurl, a callback of a fetch or the kernel runs.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <vector>

#include "http/aside_thread.hpp"
#include "http/http_fetch.hpp"
#include "http/http_pace.hpp"

namespace streamload {

class HttpLoop final : public std::enable_shared_from_this<HttpLoop> {
 public:
  using Clock = std::chrono::steady_clock;

  struct Shared {  // by the loops of one client
    std::shared_ptr<const CurlLibrary> curl;
    std::shared_ptr<HttpPace> pace;
    std::shared_ptr<AsideThread> aside;  // where renewals run
    std::size_t loops = 1;
    bool take_over = true;  // connections without TLS, from libcurl
  };

  // Fails where the system or libcurl has no room for another; the thread is the caller's to start with run().
  [[nodiscard]] static Status make(Shared shared, std::size_t index, std::shared_ptr<HttpLoop>& out);
  HttpLoop(Shared shared, std::size_t index, std::unique_ptr<Connections> connections) noexcept;
  HttpLoop(const HttpLoop&) = delete;
  HttpLoop& operator=(const HttpLoop&) = delete;

  // Until stop() was called and every fetch is done.
  void run() noexcept;

  // From any thread, without waiting.
  void submit(const std::shared_ptr<HttpFetch>& fetch) noexcept;
  [[nodiscard]] std::size_t outstanding() const noexcept { return outstanding_; }
  void stop() noexcept;  // ends every fetch with kClosed, those to come too

 private:
  struct Renewed {
    std::shared_ptr<HttpFetch> fetch;
    Status status;
  };

  // http_loop.cpp: the thread, and what it is told.
  [[nodiscard]] bool turn() noexcept;
  void take_messages() noexcept;
  void sweep() noexcept;
  void take_ended(const Transfer& transfer, CurlCode code) noexcept;
  void start_waiting() noexcept;
  [[nodiscard]] std::size_t share() const noexcept;
  void look_at(HttpFetch& fetch, Clock::time_point when) noexcept;

  // http_attempts.cpp: what becomes of a fetch.
  void attempt(const std::shared_ptr<HttpFetch>& fetch) noexcept;
  void hedge(HttpFetch& fetch) noexcept;
  void settle(const std::shared_ptr<HttpFetch>& fetch, const Transfer& transfer, CurlCode code) noexcept;
  void settle_second(const std::shared_ptr<HttpFetch>& fetch, const TransferEnd& end) noexcept;
  void advance(HttpFetch& fetch) noexcept;
  void go_on(const std::shared_ptr<HttpFetch>& fetch, TransferEnd end, int status) noexcept;
  [[nodiscard]] bool follow(const std::shared_ptr<HttpFetch>& fetch, const TransferEnd& end) noexcept;
  [[nodiscard]] bool ask_again(const std::shared_ptr<HttpFetch>& fetch, Answer answer, int status) noexcept;
  void repeat(const std::shared_ptr<HttpFetch>& fetch) noexcept;
  void rest(const std::shared_ptr<HttpFetch>& fetch) noexcept;
  void take_renewal(Renewed& renewed) noexcept;
  void look_after(const std::shared_ptr<HttpFetch>& fetch) noexcept;
  [[nodiscard]] bool read_rest(const std::shared_ptr<HttpFetch>& fetch) noexcept;
  void look_after_running(const std::shared_ptr<HttpFetch>& fetch) noexcept;
  void give_up(const std::shared_ptr<HttpFetch>& fetch, Code code) noexcept;
  void finish(const std::shared_ptr<HttpFetch>& fetch, Status status) noexcept;

  const Shared shared_;
  HttpPace& pace_;
  const std::size_t index_;
  const std::unique_ptr<Connections> connections_;  // the thread's own, but for wake()

  std::atomic<std::size_t> outstanding_{0};

  std::mutex mutex_;  // guards the four below
  std::vector<std::shared_ptr<HttpFetch>> submitted_;
  std::vector<Renewed> renewed_;
  bool stopping_ = false;
  bool ended_ = false;  // nobody takes what is submitted any more

  // The thread's own.
  std::vector<std::shared_ptr<HttpFetch>> fetches_;  // started and not done
  std::deque<std::shared_ptr<HttpFetch>> waiting_;
  Clock::time_point now_ = Clock::now();
  Clock::time_point look_due_ = Clock::time_point::max();
  bool closing_ = false;
  double cpu_seconds_ = 0;  // of the thread, when a fetch was last done
  std::minstd_rand random_;
};

}  // namespace streamload
