// Keeps signals away from the threads of the library: a thread inherits the mask of the one that starts it.
#pragma once

#include <pthread.h>

#include <csignal>

namespace streamload {

// Blocks every signal on the calling thread while it lives. Signals are the program's: one that it has blocked to wait
// for it, or handles on its main thread, must not be delivered to a thread it does not know of.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept {
    sigset_t all;
    ::sigfillset(&all);
    ::pthread_sigmask(SIG_SETMASK, &all, &before_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { ::pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_{};
};

}  // namespace streamload
