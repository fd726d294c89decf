// A shared object bound to the process that made it, for what does not survive a fork: threads, and locks they held.
#pragma once

#include <unistd.h>

#include <memory>
#include <string>
#include <utility>

#include "core/status.hpp"

namespace streamload {

// In a forked child the object is out of reach: get() throws kForked and destruction leaks it. In its own process
// its destructor, which may join threads, runs inside a `Blocking` scope (the bindings release the GIL there).
template <class T, class Blocking>
class ProcessBound {
 public:
  ProcessBound() noexcept = default;
  explicit ProcessBound(std::shared_ptr<T> value) noexcept : value_(std::move(value)) {}
  ProcessBound(ProcessBound&&) noexcept = default;
  ProcessBound& operator=(ProcessBound&&) noexcept = default;
  ProcessBound(const ProcessBound&) = delete;
  ProcessBound& operator=(const ProcessBound&) = delete;
  ~ProcessBound() {
    if (!here()) {
      leak();  // its destructor would join threads that this process never had
    } else if (value_) {
      const Blocking scope;
      value_.reset();
    }
  }

  // Gives the object up without destroying it: for where destroying it would wait for something that cannot come.
  void leak() noexcept { static_cast<void>(std::make_unique<std::shared_ptr<T>>(std::move(value_)).release()); }

  [[nodiscard]] bool here() const noexcept { return owner_ == ::getpid(); }
  [[nodiscard]] bool holds_here() const noexcept { return value_ != nullptr && here(); }
  [[nodiscard]] const std::shared_ptr<T>& share() const {
    if (!here()) {
      throw_if_error(Status::failure(Code::kForked, "made in process " + std::to_string(owner_) +
                                                        " and used in its forked child " + std::to_string(::getpid()) +
                                                        ": open and load again in the child"));
    }
    return value_;
  }
  [[nodiscard]] T& get() const { return *share(); }

 private:
  std::shared_ptr<T> value_;
  pid_t owner_ = ::getpid();
};

}  // namespace streamload
