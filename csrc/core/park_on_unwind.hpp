// Parks a thread that pthread_exit unwinds, instead of letting the unwinding reach noexcept frames and abort.
//
// Until Python 3.14, taking the GIL on a daemon thread while the interpreter ends exits the thread that way. Forced
// unwinding goes from the innermost frame outwards, so a destructor that never returns there ends it.
#pragma once

#include <unistd.h>

namespace streamload {

// Runs a call that may exit the thread. Not inlined: the frame must be its own, inside the caller's noexcept one.
template <class Call>
[[gnu::noinline]] void park_if_unwound(Call&& call) {
  struct Park {
    volatile bool armed = true;  // volatile: the call may not return, which no compiler knows
    ~Park() {
      while (armed) ::pause();
    }
  } park;
  call();
  park.armed = false;
}

}  // namespace streamload
