// Parks a thread that pthread_exit unwinds, instead of letting the unwinding reach noexcept frames and abort.
//
// Until Python 3.14, taking the GIL on a daemon thread while the interpreter ends exits the thread that way. Inner
// frames are unwound first, so this must live in a frame of its own (not inlined) around the call that may exit.
#pragma once

#include <unistd.h>

namespace streamload {

class ParkOnUnwind {
 public:
  ParkOnUnwind() noexcept = default;
  ParkOnUnwind(const ParkOnUnwind&) = delete;
  ParkOnUnwind& operator=(const ParkOnUnwind&) = delete;
  ~ParkOnUnwind() {
    while (armed_) ::pause();
  }
  void disarm() noexcept { armed_ = false; }

 private:
  volatile bool armed_ = true;  // volatile: the call before disarm() may not return, which no compiler knows
};

}  // namespace streamload
