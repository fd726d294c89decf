// What the stand-in driver knows: contexts, streams with their threads, events, memory, and what a test asked for.
//
// One mutex guards all of it and one condition variable tells every change; copies run outside the mutex. A driver
// is process-wide by nature, so there is one State, and it is never destroyed.
#pragma once

#include <array>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "device/cuda_api.hpp"
#include "device/device.hpp"

namespace standin {

using streamload::CuContext;
using streamload::CuDevice;
using streamload::CuDevicePtr;
using streamload::CuEvent;
using streamload::CuResult;
using streamload::CuStream;

inline constexpr int kDevices = 2;
inline constexpr std::uint64_t kUnlimited = ~std::uint64_t{0};
inline constexpr std::uint64_t kDeviceBytes = std::uint64_t{8} << 30;

// Device memory is host memory here.
inline std::byte* host(CuDevicePtr address) {
  return reinterpret_cast<std::byte*>(static_cast<std::uintptr_t>(address));  // NOLINT(performance-no-int-to-ptr)
}

// One record of an event: what waiters captured at the time of their wait.
struct Mark {
  bool done = false;
  double seconds = 0;
};

// One entry of a stream's queue: a mark to set, a mark to wait for, or a copy.
struct Operation {
  std::shared_ptr<Mark> sets{};
  std::shared_ptr<Mark> waits_for{};
  streamload::CopyBlock copy{};     // of no bytes where there is none
  std::vector<std::byte> staged{};  // the bytes of an unpinned source, taken before the call returned
};

struct Stream {
  int device = 0;
  std::deque<Operation> queue;  // the front one may be running
  bool closing = false;
  std::thread worker;
};

struct Event {
  int device = 0;
  unsigned flags = 0;
  std::shared_ptr<Mark> last;  // null until recorded
};

struct FreeBytes {
  void operator()(std::byte* memory) const noexcept;
};

struct Allocation {
  int device = 0;
  std::size_t nbytes = 0;
  std::unique_ptr<std::byte, FreeBytes> memory;
};

struct Registration {
  std::size_t nbytes = 0;
  int device = -1;  // for whose context alone it is pinned; -1 for all, registered portable
};

// How much of a host range lies inside one registration.
enum class Pinning : std::uint8_t { kNone, kPart, kWhole };

struct Context {
  std::uint64_t retained = 0;
  CuResult broken = CuResult::kSuccess;  // what a failed copy left behind
};

struct PlannedFailure {
  std::uint64_t after = 0;
  CuResult result = CuResult::kSuccess;
};

struct Counters {
  std::uint64_t copies_issued = 0;
  std::uint64_t copies_done = 0;
  std::uint64_t bytes_copied = 0;
  std::uint64_t unpinned_copies = 0;
};

// What a function must find before it may work, and what becomes of a planned failure.
enum class Kind : std::uint8_t {
  kAlways,    // works before cuInit
  kPlain,     // after cuInit
  kContext,   // with a live context current
  kGiveBack,  // as kContext, in a broken one too; a planned failure is returned after the work is done
};

class State {
 public:
  State();  // only for `get`
  static State& get();

  // --- everything below needs `mutex` held, except where said ---
  std::mutex mutex;
  std::condition_variable changed;

  // The result a call starts with; counts the call, checks what its kind needs and applies a planned failure.
  CuResult begin(const char* function, Kind kind);
  // Takes the failure planned for this call of `function`, if any.
  CuResult planned(const std::string& function);
  void violation(const std::string& text);

  // Contexts by number of device; the stack is the calling thread's own.
  static std::vector<CuContext>& stack();
  static CuContext context_of(int device);
  // The device of the calling thread's current context, or -1.
  [[nodiscard]] int current_device() const;

  CuStream create_stream(int device);
  // Null, with a violation told, where there is no such stream. Makes the default streams on first use.
  std::shared_ptr<Stream> find_stream(const char* function, CuStream handle);
  CuEvent create_event(int device, unsigned flags);
  Event* find_event(const char* function, CuEvent handle);
  void enqueue(Stream& stream, Operation operation);
  // Ends the stream's thread once its queue is empty. An idle one is joined; unlocks meanwhile.
  void close_stream(std::unique_lock<std::mutex>& lock, const std::shared_ptr<Stream>& stream);
  void close_default_streams(std::unique_lock<std::mutex>& lock, int device);
  void reset(std::unique_lock<std::mutex>& lock);

  // The allocation that holds all of the range, or null.
  [[nodiscard]] Allocation* find_allocation(const std::byte* address, std::size_t nbytes);
  [[nodiscard]] Pinning pinning(int device, const std::byte* address, std::size_t nbytes) const;
  [[nodiscard]] bool in_flight(const std::byte* address, std::size_t nbytes) const;
  [[nodiscard]] std::uint64_t operations_in_flight() const;
  // How many objects are alive, on one device or (-1) on all; contexts and registrations count for all only.
  [[nodiscard]] std::uint64_t live(int device, std::string* text = nullptr) const;

  bool initialized = false;
  bool shut_down = false;
  int driver_version = 0;
  int device_count = 0;
  std::set<std::string> hidden;
  std::map<std::string, std::uint64_t> calls;
  std::map<std::string, PlannedFailure> failures;
  std::vector<std::string> violations;
  Counters counters;
  std::uint64_t copies_allowed = kUnlimited;

  std::array<Context, kDevices> contexts;
  std::map<CuStream, std::shared_ptr<Stream>> streams;
  std::map<std::pair<int, std::thread::id>, std::shared_ptr<Stream>> default_streams;  // no thread: the legacy one
  std::vector<std::shared_ptr<Stream>> retired;  // destroyed while busy; joined by reset
  std::map<CuEvent, Event> events;
  std::map<const std::byte*, Allocation> allocations;
  std::vector<Allocation> lost;                            // freed in flight: kept, for the copy will still write
  std::map<const std::byte*, Registration> registrations;  // pinned ranges

 private:
  void run(const std::shared_ptr<Stream>& stream);  // a stream's thread
  void run_copy(std::unique_lock<std::mutex>& lock, Stream& stream, const streamload::CopyBlock& copy);
  std::shared_ptr<Stream> start_stream(int device);

  std::uintptr_t next_handle_ = 0x1000;  // never used twice, so that a stale handle is always found out
};

}  // namespace standin
