#include "core/task_threads.hpp"

#include <sys/resource.h>

#include <algorithm>
#include <condition_variable>
#include <map>
#include <system_error>
#include <utility>

#include "core/background_thread.hpp"
#include "core/signals_blocked.hpp"

namespace streamload {

struct TaskThreads::State {
  const char* const name;
  const int niceness;
  std::mutex mutex;  // guards everything here
  std::condition_variable changed;
  std::multimap<Clock::time_point, Task> tasks;  // by when they are due; equals keep their order
  std::size_t idle = 0;                          // threads that wait
  bool ending = false;

  State(const char* thread_name, int thread_niceness) : name(thread_name), niceness(thread_niceness) {}
};

TaskThreads::TaskThreads(const char* name, std::size_t most, int niceness)
    : most_(most), state_(std::make_shared<State>(name, niceness)) {}

bool TaskThreads::run_after(Clock::duration delay, Task task) noexcept {
  bool crowded = false;
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->ending) return false;
    crowded = state_->tasks.size() >= state_->idle;
    state_->tasks.emplace(Clock::now() + delay, std::move(task));
  }
  state_->changed.notify_one();
  return !crowded || start_another();
}

bool TaskThreads::start_another() noexcept {
  const std::lock_guard lock(mutex_);
  if (threads_.size() >= most_) return true;
  try {
    const SignalsBlocked blocked;
    threads_.emplace_back([state = state_] { run_tasks(state); });
    return true;
  } catch (const std::system_error&) {
    if (!threads_.empty()) return true;
  }
  const std::lock_guard tasks(state_->mutex);
  state_->tasks.clear();
  return false;
}

void TaskThreads::run_tasks(const std::shared_ptr<State>& state) noexcept {
  stay_in_background(state->name);
  // On Linux 0 is the calling thread.
  if (state->niceness != 0) static_cast<void>(::setpriority(PRIO_PROCESS, 0, state->niceness));
  std::unique_lock lock(state->mutex);
  while (true) {
    if (state->tasks.empty()) {
      if (state->ending) return;
      ++state->idle;
      state->changed.wait(lock);
      --state->idle;
      continue;
    }
    const auto next = state->tasks.begin();
    if (!state->ending && next->first > Clock::now()) {
      ++state->idle;
      state->changed.wait_until(lock, Clock::time_point(next->first));
      --state->idle;
      continue;
    }
    Task task = std::move(next->second);
    state->tasks.erase(next);
    lock.unlock();
    task();
    task = {};
    lock.lock();
  }
}

void TaskThreads::close() noexcept {
  {
    const std::lock_guard lock(state_->mutex);
    state_->ending = true;
  }
  state_->changed.notify_all();
  std::vector<std::thread> threads;
  {
    const std::lock_guard lock(mutex_);
    threads.swap(threads_);
  }
  const auto here = [](const std::thread& thread) { return thread.get_id() == std::this_thread::get_id(); };
  const bool own = std::any_of(threads.begin(), threads.end(), here);
  for (std::thread& thread : threads) own ? thread.detach() : thread.join();
}

}  // namespace streamload
