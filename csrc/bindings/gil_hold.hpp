// The GIL on an engine's thread, and Python objects whose last reference may go there.
#pragma once

#include "bindings/python.hpp"

namespace streamload {

// Holds the GIL on an engine's thread. One that comes too late, when the interpreter is going away, stays here.
class GilHold {
 public:
  GilHold() {
    park_if_unwound([this] { state_ = PyGILState_Ensure(); });
  }
  GilHold(const GilHold&) = delete;
  GilHold& operator=(const GilHold&) = delete;
  ~GilHold() { PyGILState_Release(state_); }

 private:
  PyGILState_STATE state_{};
};

// Lets go of an object on whatever thread.
template <class Object>
void drop_held(Object& object) {
  if (finalizing()) {
    static_cast<void>(object.release());  // leaked: the interpreter is past counting
    return;
  }
  const GilHold gil;
  object.reset();
}

}  // namespace streamload
