// A few threads for tasks that may block; each is started when it is first needed.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace streamload {

// Thread-safe. Tasks begin in the order in which they were handed in, or became due.
class TaskThreads {
 public:
  using Clock = std::chrono::steady_clock;
  using Task = std::function<void()>;

  // `name`: of the threads, at most 15 characters; a literal. `niceness`: of the threads, from 0 to 19, as far as the
  // system grants it; who is nicer gets what processor time the others leave.
  TaskThreads(const char* name, std::size_t most, int niceness = 0);
  TaskThreads(const TaskThreads&) = delete;
  TaskThreads& operator=(const TaskThreads&) = delete;
  ~TaskThreads() { close(); }

  // False where there is no thread to be had, or after close(): then the task is dropped.
  [[nodiscard]] bool run(Task task) noexcept { return run_after(Clock::duration::zero(), std::move(task)); }
  [[nodiscard]] bool run_after(Clock::duration delay, Task task) noexcept;

  // Runs what is left at once, whenever it was due, and waits for it. On one of the threads it does not wait.
  void close() noexcept;

 private:
  struct State;
  static void run_tasks(const std::shared_ptr<State>& state) noexcept;
  [[nodiscard]] bool start_another() noexcept;

  const std::size_t most_;
  const std::shared_ptr<State> state_;
  std::mutex mutex_;  // guards threads_
  std::vector<std::thread> threads_;
};

}  // namespace streamload
