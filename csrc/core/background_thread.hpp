// Threads that move bytes beside a program that computes.
#pragma once

#include <pthread.h>
#include <sched.h>

namespace streamload {

// Names the calling thread, of at most 15 characters, and lets it run like any other, but never in the middle of
// another's turn: as SCHED_BATCH it does not preempt whoever it finds on its processor when it wakes. Where there are
// as many processors as busy threads this changes nothing; on two, with one that computes, a thread that woke to read
// four megabytes took half a millisecond from it each time (streamload bench overlap). Where the program has chosen
// another policy for its threads, or this one is refused, the thread runs as it did.
inline void stay_in_background(const char* name) noexcept {
  ::pthread_setname_np(::pthread_self(), name);
  if (::sched_getscheduler(0) != SCHED_OTHER) return;
  const sched_param none{};
  ::pthread_setschedparam(::pthread_self(), SCHED_BATCH, &none);
}

}  // namespace streamload
