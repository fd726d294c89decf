// Passes units through slots of device memory, pass after pass, for weights that exceed the device.
//
//   its own thread:   picks the next fill: what somebody waits for, else the next unit of the pass that is not there →
//                     makes a copy stream wait for the slot's releases → starts a ticket, or copies from host memory
//   the pool's:       read and enqueue copies; the last one records the slot's event: the unit is issued
//   consumers:        acquire (wait until the unit is issued, then let their stream wait for the slot's event) →
//   enqueue
//                     work → release (record an event behind it)
//
// Waiting is two steps in both directions, because a stream that waits on an event not yet recorded does not wait at
// all. No fill looks at a slot before every holder has recorded its release; no consumer waits for an event that a
// later fill records, since it counts as a holder before it waits. The first failed fill fails the rotation: every
// waiter and every later acquire gets the same Status.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "device/device.hpp"
#include "engine/ordering_rules.hpp"
#include "engine/pass_order.hpp"
#include "engine/rotation_stats.hpp"
#include "engine/ticket.hpp"

namespace streamload {

// Bytes of page-locked host memory and where on the device they go.
struct HostCopy {
  const std::byte* source = nullptr;
  DeviceSpan target;
};

// Thread-safe. Holds belong to threads: the one that acquired a unit releases it.
class Rotation {
 public:
  using Clock = std::chrono::steady_clock;

  struct Setup {
    std::vector<Plan> units;             // of one group each, to addresses inside the unit's slot
    std::vector<std::uint32_t> slot_of;  // of each unit
    std::vector<DeviceSpan> slots;       // must live until the rotation is closed
    std::vector<std::uint32_t> order;    // of a pass
    std::vector<std::shared_ptr<Source>> sources;
    std::optional<StreamView> after;  // the stream that allocated the slots
    std::uint64_t debug_seed = 0;     // not 0: poisons slots between fills, delays at random, checks every rule
    Breach breach = Breach::kNone;    // for tests: what of the rules is broken, in debugging
  };

  // One call of acquire while it waits. Dropped, it waits no more. Ends before its rotation.
  class Want {
   public:
    Want() noexcept = default;
    Want(const Want&) = delete;
    Want& operator=(const Want&) = delete;
    ~Want();

   private:
    friend class Rotation;
    Rotation* rotation_ = nullptr;  // empty once it holds the unit
    std::uint32_t unit_ = 0;
    std::uint64_t number_ = 0;
  };

  // Starts to fill and returns at once. kInvalid where `setup` contradicts itself.
  [[nodiscard]] static Status start(std::shared_ptr<Device> device, std::shared_ptr<ReadPool> pool, Setup setup,
                                    std::shared_ptr<Rotation>& out);
  Rotation(std::shared_ptr<Device> device, std::shared_ptr<ReadPool> pool, Setup setup);
  Rotation(const Rotation&) = delete;
  Rotation& operator=(const Rotation&) = delete;
  ~Rotation() { close(); }

  // Says that the calling thread wants to use a unit. kMisused where it holds another one.
  [[nodiscard]] Status want(std::uint32_t unit, Want& out) noexcept;
  // Blocks until the calling thread holds the unit, at most `patience`. `ready`: it does, and work put on `stream` from
  // now on sees its bytes (without a stream, or on a device that waits on the host: they are there).
  [[nodiscard]] Status acquire(Want& want, std::optional<StreamView> stream, Clock::duration patience,
                               bool& ready) noexcept;
  // The calling thread has put its last work with the unit on `stream`. kMisused where it does not hold the unit.
  [[nodiscard]] Status release(std::uint32_t unit, std::optional<StreamView> stream) noexcept;

  void begin_pass() noexcept;
  [[nodiscard]] Status set_order(std::vector<std::uint32_t> order) noexcept;
  // From its next fill on the unit comes from this memory, which must stay until the rotation is closed.
  [[nodiscard]] Status keep_on_host(std::uint32_t unit, const std::vector<HostCopy>& copies);

  [[nodiscard]] std::uint32_t unit_count() const noexcept { return static_cast<std::uint32_t>(units_.size()); }
  [[nodiscard]] RotationStats stats() const;

  void cancel() noexcept;
  // Cancels, for the end of the process; see Ticket::abandon.
  void abandon() noexcept;
  // Cancels and waits for reads and copies under way; idempotent. Called by one of its own sources, it cancels only.
  void close() noexcept;
  [[nodiscard]] bool runs_here() const noexcept;  // whether the calling thread reads for this rotation

 private:
  enum class State : std::uint8_t { kEmpty, kFilling, kIssued, kLanded };
  using HostCopies = std::vector<CopyBlock>;
  struct Unit {
    std::shared_ptr<const Plan> plan;
    std::uint32_t slot = 0;
    std::uint64_t bytes_read = 0;
    std::size_t first_key = 0;                 // of its plan, counted over all units
    std::shared_ptr<const HostCopies> host{};  // guarded by mutex_
    std::uint64_t host_bytes = 0;              // likewise
  };
  struct Slot {
    DeviceSpan memory;
    std::shared_ptr<Event> filled;  // recorded behind the copies of each fill

    // Guarded by mutex_.
    State state = State::kEmpty;
    std::uint32_t unit = 0;        // whose bytes are there or on their way
    std::uint32_t generation = 0;  // number of the fill
    std::size_t holds = 0;
    bool used = false;  // since it was filled
    bool from_host = false;
    std::uint64_t nbytes = 0;  // of the fill
    bool claimed = false;      // every read of the fill
    bool failed = false;
    bool paused = false;          // the ticket is
    std::vector<Event> released;  // recorded behind the uses since it was filled
    std::shared_ptr<Ticket> ticket;
  };
  struct Wanted {
    std::uint64_t number;
    std::uint32_t unit;
    bool predicted;
  };
  struct Hold {
    std::thread::id thread;
    std::uint32_t unit;
    std::size_t count;
  };
  struct Task {  // what the thread does next
    std::uint32_t slot = 0;
    std::uint32_t unit = 0;
    bool resumes = false;                 // a paused fill, rather than starting one
    bool demanded = false;                // somebody waits for it
    std::optional<std::uint32_t> pauses;  // slot whose fill reads meanwhile
  };
  struct Fill {  // a fill that is being started
    std::uint32_t slot = 0;
    std::uint32_t unit = 0;
    std::uint32_t generation = 0;
    bool demanded = false;
    StreamView stream;
    std::vector<Event> released;
    std::shared_ptr<Event> previous;  // to be copied before it
    std::shared_ptr<const HostCopies> host;
  };

  // rotation.cpp: the consumer's side.
  [[nodiscard]] static Status check(const Setup& setup);
  [[nodiscard]] Status begin(std::optional<StreamView> after);
  [[nodiscard]] Hold* hold_of_caller() noexcept;  // under mutex_, as all of these
  [[nodiscard]] bool may_take(const Want& want, bool on_host) const noexcept;
  void withdraw(std::uint64_t number) noexcept;
  void drop_hold(std::uint32_t unit) noexcept;
  void take(Want& want) noexcept;
  [[nodiscard]] Status release_behind(std::uint32_t unit, StreamView stream) noexcept;
  [[nodiscard]] Status end_hold(std::uint32_t unit, Event released) noexcept;  // under mutex_
  [[nodiscard]] bool breaks(Breach rule) const noexcept { return breach_ == rule; }
  void fail(Status status) noexcept;
  [[nodiscard]] Status tell_failure() const;

  // rotation_fills.cpp: its own thread.
  void run() noexcept;
  void perform(const Task& task, std::unique_lock<std::mutex>& lock) noexcept;
  void reap(std::unique_lock<std::mutex>& lock) noexcept;
  [[nodiscard]] bool pick(Task& task) noexcept;
  [[nodiscard]] bool pick_wanted(Task& task) noexcept;
  [[nodiscard]] bool pick_next(Task& task) noexcept;
  [[nodiscard]] std::optional<std::uint32_t> next_missing() noexcept;
  [[nodiscard]] bool holds_unit(const Slot& slot, std::uint32_t unit) const noexcept;
  [[nodiscard]] bool is_wanted(std::uint32_t slot) const noexcept;
  [[nodiscard]] bool is_free(const Slot& slot) const noexcept;
  [[nodiscard]] Status check_fill(const Task& task) noexcept;
  [[nodiscard]] Fill claim_slot(const Task& task) noexcept;
  [[nodiscard]] Status fill(Fill fill) noexcept;
  [[nodiscard]] Status wait_for_releases(Fill& fill) noexcept;
  [[nodiscard]] Status copy_from_host(const Fill& fill) noexcept;
  void told(std::uint32_t slot, std::uint32_t generation, Ticket::Stage stage) noexcept;
  void mark(std::uint32_t slot, Ticket::Stage stage) noexcept;  // under mutex_
  void land_from_host(std::uint32_t slot, std::uint32_t unit, std::uint32_t generation) noexcept;
  void delay() noexcept;

  std::shared_ptr<ReadPool> pool_;  // let go of by close(), under mutex_
  const std::shared_ptr<Device> device_;
  const std::vector<std::shared_ptr<Source>> sources_;
  const bool debug_;
  const Breach breach_;
  const Clock::time_point started_ = Clock::now();

  mutable std::mutex mutex_;         // guards the members down to the blank line, and what Unit and Slot say
  std::condition_variable changed_;  // for consumers
  std::condition_variable work_;     // for the thread, and who closes
  std::vector<Unit> units_;
  std::vector<Slot> slots_;
  PassOrder order_;
  std::vector<Wanted> wants_;  // oldest first
  std::uint64_t next_want_ = 1;
  std::vector<Hold> holds_;
  std::vector<Event> spare_events_;
  std::vector<bool> needed_;              // slots whose unit is needed before the next one that is missing
  std::optional<std::uint32_t> reading_;  // slot whose ticket has the readers to itself
  std::optional<std::uint32_t> latest_;   // slot filled last
  std::size_t next_stream_ = 0;
  std::size_t host_fills_ = 0;  // under way
  std::size_t landers_ = 0;     // threads of the pool that wait for copies from host memory
  bool news_ = true;            // for the thread
  RotationStats stats_;
  std::minstd_rand random_;
  OrderingRules rules_;  // told in debugging only
  Status failure_;

  std::atomic<bool> failed_{false};
  std::atomic<bool> abandoned_{false};

  std::mutex ending_streams_;  // guards the end of streams_
  std::array<Stream, 2> streams_;
  Event allocated_;  // recorded on the stream that allocated the slots

  std::mutex closing_;  // serialises close()
  std::jthread thread_;
};

}  // namespace streamload
