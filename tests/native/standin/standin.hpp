// The controls of the stand-in driver, for tests: what the library exports beside the CUDA driver's own functions.
//
// The stand-in is a CUDA driver over host memory: streams are threads, device addresses are host addresses that a
// test may read, and every call is checked. A wrong call is a violation: it is counted, described and, where CUDA
// would stay silent, still answered as CUDA would. There are two devices.
//
// C++ tests call open_standin(path); Python tests load the same path with ctypes and call standin_reset and so on.
// Handing the path to CudaDevice gives the same instance: a library is loaded once a process.
#pragma once

#include <dlfcn.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <type_traits>

extern "C" {
// Everything as freshly loaded: held copies run, threads end, memory goes. No device may be open.
void standin_reset();

// Call `k` (from 0, counted from now) of "cuMemAlloc" (names without _v2) returns `result`, once. A function that
// gives something back or waits for a stream does so all the same, as a driver does that tells an earlier error. "copy"
// is the k-th copy itself, failing later on its stream: the context is broken from then on, as after a bus error.
// "batch" is the k-th batch, stopping half way: the copies in front of the one that fails are under way.
void standin_fail(const char* function, std::uint64_t k, int result);
// cuGetProcAddress no longer finds this function.
void standin_hide(const char* function);
void standin_set_driver_version(int version);
void standin_set_device_count(int count);
// As at the end of a process: from now on every call returns CUDA_ERROR_DEINITIALIZED.
void standin_shut_down();

// Copies stay queued until let go: the next `count` of them, or all from now on.
void standin_hold_copies();
void standin_release_copies(std::uint64_t count);
void standin_release_all_copies();

std::uint64_t standin_calls(const char* function);
// "copies_issued", "copies_done", "bytes_copied", "unpinned_copies" (staged before the call returned), "in_flight"
// (operations queued or running), "pushed" (contexts on this thread's stack), or live objects of one kind:
// "contexts", "streams", "events", "allocations", "registrations".
std::uint64_t standin_count(const char* what);
// How many; one line for each in `text`, cut to `nbytes` with its final NUL.
std::uint64_t standin_violations(char* text, std::size_t nbytes);
std::uint64_t standin_live_objects(char* text, std::size_t nbytes);
}

struct Standin {
  void* library = nullptr;
  decltype(&standin_reset) reset = nullptr;
  decltype(&standin_fail) fail = nullptr;
  decltype(&standin_hide) hide = nullptr;
  decltype(&standin_set_driver_version) set_driver_version = nullptr;
  decltype(&standin_set_device_count) set_device_count = nullptr;
  decltype(&standin_shut_down) shut_down = nullptr;
  decltype(&standin_hold_copies) hold_copies = nullptr;
  decltype(&standin_release_copies) release_copies = nullptr;
  decltype(&standin_release_all_copies) release_all_copies = nullptr;
  decltype(&standin_calls) calls = nullptr;
  decltype(&standin_count) count = nullptr;
  decltype(&standin_violations) violations = nullptr;
  decltype(&standin_live_objects) live_objects = nullptr;

  // One line each, with the number of them in front: "0: " where there is nothing to say.
  [[nodiscard]] std::string violation_text() const { return text_of(violations); }
  [[nodiscard]] std::string live_text() const { return text_of(live_objects); }

 private:
  static std::string text_of(std::uint64_t (*report)(char*, std::size_t)) {
    std::string text(4096, '\0');
    const std::uint64_t found = report(text.data(), text.size());
    return std::to_string(found) + ": " + text.c_str();
  }
};

// `library` is null where it cannot be loaded; then so is every control.
inline Standin open_standin(const char* path) {
  Standin standin;
  standin.library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (standin.library == nullptr) return standin;
  const auto find = [&](const char* name, auto& control) {
    control = reinterpret_cast<std::remove_reference_t<decltype(control)>>(dlsym(standin.library, name));
  };
  find("standin_reset", standin.reset);
  find("standin_fail", standin.fail);
  find("standin_hide", standin.hide);
  find("standin_set_driver_version", standin.set_driver_version);
  find("standin_set_device_count", standin.set_device_count);
  find("standin_shut_down", standin.shut_down);
  find("standin_hold_copies", standin.hold_copies);
  find("standin_release_copies", standin.release_copies);
  find("standin_release_all_copies", standin.release_all_copies);
  find("standin_calls", standin.calls);
  find("standin_count", standin.count);
  find("standin_violations", standin.violations);
  find("standin_live_objects", standin.live_objects);
  return standin;
}
