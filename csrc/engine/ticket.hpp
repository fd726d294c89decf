// One submitted plan, from its first read to its last byte on the device.
//
//   readers (N threads): lease a buffer → claim the next read → read → enqueue copies → record the buffer's event;
//                        the read that completes a group records the group's event and marks it issued
//   lander (1 thread):   waits for each buffer's event → returns the lease → marks groups resident
//
// Waiting is two steps, because a stream that waits on an event not yet recorded does not wait at all: first, on
// the host, until the group is issued; then, on the device, for its event. The first failure stops everything;
// later stages drain, every waiter wakes with the same Status. Threads end by themselves when all is resident.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "device/device.hpp"
#include "engine/plan.hpp"
#include "engine/staging_ring.hpp"
#include "io/source.hpp"

namespace streamload {

// Counts as a route of its own here.
inline constexpr auto kInPlace = static_cast<Route>(3);

// Where the time of one read went, in seconds since the ticket was made.
struct ChunkTrace {
  std::uint32_t group = 0;
  std::uint32_t source = 0;
  std::uint32_t thread = 0;
  Route route = Route::kBuffered;
  std::uint64_t offset = 0;
  std::size_t nbytes = 0;
  double read_start = 0;
  double read_end = 0;
  double copy_issued = 0;
  double copy_done = 0;
  bool landed = false;
};

struct TicketStats {
  std::uint64_t bytes_total = 0;
  std::uint64_t bytes_read = 0;
  std::uint64_t bytes_resident = 0;               // landed on the device
  std::array<std::uint64_t, 4> bytes_by_route{};  // indexed by Route
  std::uint32_t groups = 0;
  std::uint32_t groups_resident = 0;
  std::size_t pinned_bytes = 0;    // of the ring, now; 0 once closed
  double seconds = 0;              // until all was resident or failed; until now while it runs
  double first_group_seconds = 0;  // until the first group was resident; 0 before
  double stall_seconds = 0;        // waiters' time on the host, summed over threads
};

// Calls visit(name, value) for every number, by the names that `LoadStats` has in Python.
template <class Visit>
void for_each_field(const TicketStats& stats, Visit&& visit) {
  const auto route = [&](Route one) { return stats.bytes_by_route[static_cast<std::size_t>(one)]; };
  visit("bytes_total", stats.bytes_total);
  visit("bytes_read", stats.bytes_read);
  visit("bytes_resident", stats.bytes_resident);
  visit("buffered_bytes", route(Route::kBuffered));
  visit("direct_bytes", route(Route::kDirect));
  visit("in_place_bytes", route(kInPlace));
  visit("callback_bytes", route(Route::kCallback));
  visit("groups", stats.groups);
  visit("groups_resident", stats.groups_resident);
  visit("pinned_bytes", stats.pinned_bytes);
  visit("seconds", stats.seconds);
  visit("first_group_seconds", stats.first_group_seconds);
  visit("stall_seconds", stats.stall_seconds);
}

class Ticket {
 public:
  using Clock = std::chrono::steady_clock;

  // Starts the threads and returns at once. `after`: the stream that allocated the destinations; the first copy
  // waits for what it has queued. Everything that `plan` points at must live until the ticket is destroyed.
  [[nodiscard]] static Status start(const std::shared_ptr<Device>& device, std::shared_ptr<StagingRing> ring, Plan plan,
                                    std::vector<std::shared_ptr<Source>> sources, std::size_t read_threads,
                                    std::optional<StreamView> after, std::shared_ptr<Ticket>& out);

  Ticket(std::shared_ptr<Device> device, std::shared_ptr<StagingRing> ring, Plan plan,
         std::vector<std::shared_ptr<Source>> sources);
  Ticket(const Ticket&) = delete;
  Ticket& operator=(const Ticket&) = delete;
  ~Ticket() { close(); }

  // Blocks until the group may be used, at most `patience`. `ready`: work put on `stream` from now on sees the
  // group's bytes (on a device that waits on the host: they are there). `resident`: nobody need wait again.
  [[nodiscard]] Status wait_group(std::uint32_t group, std::optional<StreamView> stream, Clock::duration patience,
                                  bool& ready, bool& resident) noexcept;
  // Blocks until every group is resident or the ticket failed, at most `patience`.
  [[nodiscard]] Status wait_all(Clock::duration patience, bool& ready) noexcept;
  // Makes a group's unread part the next to be read.
  void promote(std::uint32_t group) noexcept;

  [[nodiscard]] bool resident(std::uint32_t group) const noexcept;
  [[nodiscard]] bool done() const noexcept { return done_.load(); }  // all resident, or failed
  [[nodiscard]] Status status() const;
  [[nodiscard]] std::uint32_t group_count() const noexcept { return plan_.group_count; }
  [[nodiscard]] TicketStats stats() const;
  [[nodiscard]] std::vector<ChunkTrace> trace() const;  // of the reads that have landed

  void cancel() noexcept;  // no effect once done
  // Cancels, for the end of the process: threads that wait now or later stay asleep, but for the main thread. They
  // must not come back into an interpreter that is going away.
  void abandon() noexcept;
  // Cancels what is not done and waits for the threads and the copies; idempotent. Called on one of those threads (by
  // a callback source), it cancels only.
  void close() noexcept;
  [[nodiscard]] bool runs_here() const noexcept;  // whether the calling thread is one of the ticket's

 private:
  struct Group {
    std::size_t first_read = 0;
    std::size_t last_read = 0;
    std::size_t next_read = 0;             // guarded by mutex_
    std::atomic<std::size_t> to_issue{0};  // reads whose copies are not enqueued yet
    std::size_t to_land = 0;               // reads whose copies have not completed; guarded by mutex_
    bool issued = false;                   // guarded by mutex_
    std::atomic<bool> resident{false};
    std::shared_ptr<Event> event;  // recorded behind the group's last copy; shared with waiters under way
  };
  struct Landing {
    StagingRing::Buffer buffer;
    std::size_t read = 0;
  };

  void run_reader(std::uint32_t thread) noexcept;
  void run_lander() noexcept;
  [[nodiscard]] Status serve(std::size_t read, std::uint32_t thread, StagingRing::Buffer& buffer) noexcept;
  [[nodiscard]] Status serve_in_place(std::size_t read, bool& taken) noexcept;
  [[nodiscard]] Status enqueue(std::size_t read, ConstHostSpan bytes, StagingRing::Buffer buffer) noexcept;
  [[nodiscard]] Status issue(std::size_t read) noexcept;
  // Calls visit(source) for each source that a group reads from.
  template <class Visit>
  void for_each_source(const Group& group, Visit&& visit) const;
  [[nodiscard]] bool claim(std::size_t& read) noexcept;
  void land(std::size_t read) noexcept;
  void fail(Status status) noexcept;
  [[nodiscard]] Status tell_failure() const;  // to a waiter; never returns to one that was abandoned
  [[nodiscard]] double elapsed() const noexcept;

  const std::shared_ptr<Device> device_;
  const Plan plan_;
  const Clock::time_point started_ = Clock::now();

  mutable std::mutex mutex_;  // guards the members down to the blank line, and what Group says
  std::condition_variable_any changed_;
  std::vector<Group> groups_;
  std::deque<std::uint32_t> promoted_;
  std::uint32_t cursor_ = 0;  // first group that may have unclaimed reads
  std::deque<Landing> landings_;
  std::vector<StagingRing::Buffer> stranded_;  // copies in flight that no event covers; freed behind the stream
  std::size_t reads_landed_ = 0;
  std::uint32_t readers_running_ = 0;
  std::uint32_t groups_resident_ = 0;
  double first_group_seconds_ = 0;
  double seconds_ = 0;
  Status failure_;
  std::vector<ChunkTrace> traces_;  // entry i belongs to the reader of read i until it is landed

  std::atomic<bool> failed_{false};
  std::atomic<bool> done_{false};
  std::atomic<bool> abandoned_{false};
  std::atomic<std::uint64_t> bytes_read_{0};
  std::atomic<std::uint64_t> bytes_resident_{0};
  std::array<std::atomic<std::uint64_t>, 4> bytes_by_route_{};
  std::vector<std::atomic<std::size_t>> groups_of_source_;  // groups not issued yet that read from source i
  std::atomic<std::int64_t> stall_nanoseconds_{0};

  // Set before the threads start and let go of after they ended.
  std::shared_ptr<StagingRing> ring_;  // from then on under mutex_, for stats()
  std::vector<std::shared_ptr<Source>> sources_;
  Stream stream_;
  Event allocated_;         // recorded on the stream that allocated the destinations
  StreamView stream_view_;  // stays when stream_ is gone: cancel() may come late

  std::mutex closing_;  // serialises close()
  std::stop_source stop_;
  std::vector<std::jthread> threads_;
  std::vector<std::thread::id> thread_ids_;  // complete before anyone else has the ticket
};

}  // namespace streamload
