// A thread for what may block and must not hold up others; started when it is first needed.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>

namespace streamload {

// Runs tasks one after another. Thread-safe.
class AsideThread {
 public:
  AsideThread() = default;
  AsideThread(const AsideThread&) = delete;
  AsideThread& operator=(const AsideThread&) = delete;
  ~AsideThread() { close(); }

  // False where there is no thread to be had, or after close(): then the task is dropped.
  [[nodiscard]] bool run(std::function<void()> task) noexcept;
  // Drops what has not begun and waits for what has. On the thread itself: does not wait.
  void close() noexcept;
  [[nodiscard]] bool runs_here() const noexcept;

 private:
  struct State {
    std::mutex mutex;  // guards everything here
    std::condition_variable changed;
    std::deque<std::function<void()>> tasks;
    bool ending = false;
  };
  static void run_tasks(const std::shared_ptr<State>& state) noexcept;

  const std::shared_ptr<State> state_ = std::make_shared<State>();
  mutable std::mutex mutex_;  // guards thread_
  std::thread thread_;
};

}  // namespace streamload
