#include "http/aside_thread.hpp"

#include <system_error>
#include <utility>

#include "core/background_thread.hpp"
#include "core/signals_blocked.hpp"

namespace streamload {

bool AsideThread::run(std::function<void()> task) noexcept {
  {
    const std::lock_guard lock(state_->mutex);
    if (state_->ending) return false;
    state_->tasks.push_back(std::move(task));
  }
  state_->changed.notify_one();
  const std::lock_guard lock(mutex_);
  if (thread_.joinable()) return true;
  try {
    const SignalsBlocked blocked;
    thread_ = std::thread([state = state_] { run_tasks(state); });
  } catch (const std::system_error&) {
    const std::lock_guard tasks(state_->mutex);
    state_->tasks.clear();
    return false;
  }
  return true;
}

void AsideThread::run_tasks(const std::shared_ptr<State>& state) noexcept {
  stay_in_background("streamload-sign");
  std::unique_lock lock(state->mutex);
  while (true) {
    state->changed.wait(lock, [&] { return state->ending || !state->tasks.empty(); });
    if (state->ending) return;
    std::function<void()> task = std::move(state->tasks.front());
    state->tasks.pop_front();
    lock.unlock();
    task();
    task = {};
    lock.lock();
  }
}

void AsideThread::close() noexcept {
  std::deque<std::function<void()>> dropped;  // ends outside the lock
  {
    const std::lock_guard lock(state_->mutex);
    state_->ending = true;
    dropped.swap(state_->tasks);
  }
  state_->changed.notify_all();
  const bool here = runs_here();
  std::thread ended;
  {
    const std::lock_guard lock(mutex_);
    ended.swap(thread_);
  }
  if (!ended.joinable()) return;
  here ? ended.detach() : ended.join();
}

bool AsideThread::runs_here() const noexcept {
  const std::lock_guard lock(mutex_);
  return thread_.get_id() == std::this_thread::get_id() && thread_.joinable();
}

}  // namespace streamload
