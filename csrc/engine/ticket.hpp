// One submitted plan, from its first read to its last byte on the device.
//
//   reading threads (the pool's):  claim the next read → choose its route → read into a staging buffer, or straight
//                                  into place → enqueue copies → record an event; the read that completes a group
//                                  records the group's event and marks it issued
//   the reader of direct reads:    the same from "enqueue copies" on, when such a read completes; and so does a source
//                                  that fetches, on a thread of its own
//   lander (one thread a load):    waits for each event → returns the buffer → marks groups resident
//
// Waiting is two steps, because a stream that waits on an event not yet recorded does not wait at all: first, on
// the host, until the group is issued; then, on the device, for its event. The first failure stops everything;
// later stages drain, every waiter wakes with the same Status.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <vector>

#include "core/ranges.hpp"
#include "device/device.hpp"
#include "engine/plan.hpp"
#include "engine/read_pool.hpp"
#include "engine/ticket_stats.hpp"
#include "io/source.hpp"

namespace streamload {

class Ticket final : private Reading {
 public:
  using Clock = std::chrono::steady_clock;

  enum class Stage : std::uint8_t { kClaimed, kIssued, kLanded, kFailed };  // claimed: every read of it
  // How a load of one group is part of something larger, which outlives it and keeps its sources open.
  struct Attachment {
    StreamView stream;                // takes the copies; one that the load would otherwise make for itself
    std::shared_ptr<Event> issued;    // recorded behind the last copy, likewise
    std::function<void(Stage)> tell;  // on any thread, perhaps under the pool's lock: returns at once
    std::uint32_t number;             // of its group there, for ranges
  };

  // Starts the load and returns at once. `after`: the stream that allocated the destinations; the first copy
  // waits for what it has queued. Everything that `plan` points at must live until the ticket is destroyed.
  [[nodiscard]] static Status start(const std::shared_ptr<Device>& device, std::shared_ptr<ReadPool> pool,
                                    std::shared_ptr<const Plan> plan, std::vector<std::shared_ptr<Source>> sources,
                                    std::optional<StreamView> after, std::shared_ptr<Ticket>& out,
                                    Attachment attachment = {});

  Ticket(std::shared_ptr<Device> device, std::shared_ptr<ReadPool> pool, std::shared_ptr<const Plan> plan,
         std::vector<std::shared_ptr<Source>> sources, Attachment attachment);
  Ticket(const Ticket&) = delete;
  Ticket& operator=(const Ticket&) = delete;
  ~Ticket() override { close(); }

  // Blocks until the group may be used, at most `patience`. `ready`: work put on `stream` from now on sees the
  // group's bytes (on a device that waits on the host: they are there). `resident`: nobody need wait again.
  [[nodiscard]] Status wait_group(std::uint32_t group, std::optional<StreamView> stream, Clock::duration patience,
                                  bool& ready, bool& resident) noexcept;
  // Blocks until every group is resident or the ticket failed, at most `patience`.
  [[nodiscard]] Status wait_all(Clock::duration patience, bool& ready) noexcept;
  // Makes a group's unread part the next to be read.
  void promote(std::uint32_t group) noexcept;
  // Leaves reads unclaimed until it is told otherwise, so that another load has the readers to itself.
  void pause(bool paused) noexcept;

  [[nodiscard]] bool resident(std::uint32_t group) const noexcept;
  [[nodiscard]] bool done() const noexcept { return done_.load(); }  // all resident, or failed
  [[nodiscard]] Status status() const;
  [[nodiscard]] std::uint32_t group_count() const noexcept { return plan_.group_count; }
  [[nodiscard]] TicketStats stats() const;
  [[nodiscard]] std::vector<ChunkTrace> trace() const;  // of the reads that have landed
  // The CRC-32C of each key of the plan that has bytes and whose group is resident; nothing for others.
  [[nodiscard]] std::vector<std::optional<std::uint32_t>> sums() const;

  void cancel() noexcept;  // no effect once done
  // Cancels, for the end of the process: threads that wait now or later stay asleep, but for the main thread. They
  // must not come back into an interpreter that is going away.
  void abandon() noexcept;
  // Cancels what is not done and waits for reads and copies under way; idempotent. Called by one of its own sources
  // (on a reading thread), it cancels only.
  void close() noexcept;
  [[nodiscard]] bool runs_here() const noexcept;  // whether the calling thread reads for this ticket

 private:
  struct Group {
    std::size_t first_read = 0;
    std::size_t last_read = 0;
    std::size_t first_key = 0;  // [first_key, last_key) in keys_by_group_
    std::size_t last_key = 0;
    std::size_t next_read = 0;             // guarded by mutex_
    std::atomic<std::size_t> to_issue{0};  // reads whose copies are not enqueued yet
    std::size_t to_land = 0;               // reads whose copies have not completed; guarded by mutex_
    bool issued = false;                   // guarded by mutex_
    std::atomic<bool> resident{false};
    std::shared_ptr<Event> event;  // recorded behind the group's last copy; shared with waiters under way
  };
  struct Landing {
    StagingRing::Buffer buffer;
    Event copied;
    std::size_t read = 0;
  };
  struct Edges {            // of a read, in bytes
    std::size_t lead = 0;   // from the block it begins in to its beginning
    std::size_t first = 0;  // of it, in that block; 0 where it begins with one
    std::size_t last = 0;   // of it, in the block it ends in; 0 where it ends with one
  };
  struct alignas(kDirectAlignment) DirectBlock {
    std::array<std::byte, kDirectAlignment> bytes;
  };
  struct Flight {  // a direct read that is under way
    std::size_t read = 0;
    Choice choice;
    DirectRange range;
    StagingRing::Buffer buffer;               // empty where the read needs none
    std::vector<HostSpan> places;             // where the bytes go then, in order
    std::unique_ptr<DirectBlock[]> beside{};  // takes what is not read straight into its place
    RangeUnderWay range_shown{};
  };
  struct Fetched {  // a read that its source fetches
    std::size_t read = 0;
    Choice choice;
    StagingRing::Buffer buffer;     // empty where the read goes straight into place
    std::vector<HostSpan> targets;  // the place, or the part of the buffer that takes the bytes
    RangeUnderWay range_shown{};
  };
  enum class Outcome : std::uint8_t { kDone, kUnderWay, kReturned };

  // As the pool sees it (read_pool.hpp).
  [[nodiscard]] Needs needs() noexcept override;
  [[nodiscard]] bool claim(std::size_t& read) noexcept override;
  [[nodiscard]] bool take_next(std::size_t& read) noexcept;  // under mutex_
  [[nodiscard]] std::size_t peek_next() const noexcept;      // likewise; there is one
  [[nodiscard]] const std::shared_ptr<Device>& device() const noexcept override { return device_; }
  [[nodiscard]] const std::shared_ptr<std::atomic<std::size_t>>& borrowed() const noexcept override {
    return borrowed_;
  }
  void serve(std::size_t read, std::uint32_t thread, StagingRing::Buffer buffer) noexcept override;
  void stop() noexcept override { cancel(); }
  void refuse(std::size_t read, Status status) noexcept override;

  // ticket_reads.cpp: a read, until its bytes are in host memory.
  [[nodiscard]] Status start_read(std::size_t read, StagingRing::Buffer buffer, Outcome& outcome) noexcept;
  [[nodiscard]] Status choose(std::size_t read, Choice& choice) noexcept;
  [[nodiscard]] Status start_in_place(std::size_t read, Choice choice, Outcome& outcome) noexcept;
  [[nodiscard]] Status start_direct_in_place(std::size_t read, Choice choice, std::vector<HostSpan> places,
                                             Outcome& outcome) noexcept;
  [[nodiscard]] static Edges edges_of(const ReadStep& step) noexcept;
  [[nodiscard]] bool prepare_beside(Flight& flight) const noexcept;
  [[nodiscard]] bool prepare_in_place(Flight& flight) const noexcept;
  [[nodiscard]] std::vector<ConstHostSpan> put_beside(const Flight& flight, ConstHostSpan bytes) const noexcept;
  void take_off(const std::shared_ptr<DirectReader>& reader, Flight flight) noexcept;
  void touch_down(std::unique_ptr<Flight> flight, std::int64_t result) noexcept;
  [[nodiscard]] Status take_direct(Flight& flight, std::int64_t result, bool uring, Outcome& outcome) noexcept;
  [[nodiscard]] std::vector<HostSpan> places_of(std::size_t read) const;
  [[nodiscard]] Status finish_in_place(std::size_t read) noexcept;
  void return_read(std::size_t read) noexcept;
  void settle(double cpu_seconds) noexcept;
  void drain() noexcept;
  void end_stream(bool stranded) noexcept;
  void expect(bool buffer, const Choice& choice) noexcept;
  void count(std::size_t read, const Choice& choice, bool in_place, std::size_t uring_bytes) noexcept;

  // ticket_fetches.cpp: a read that its source fetches.
  [[nodiscard]] bool waits_for_room() const noexcept;  // under mutex_
  [[nodiscard]] Status start_fetch(std::size_t read, Choice choice, StagingRing::Buffer buffer,
                                   Outcome& outcome) noexcept;
  void take_fetched(std::unique_ptr<Fetched> fetched, Status status, const FetchCounts& counts) noexcept;

  // ticket.cpp: from host memory to the device, and to those who wait.
  [[nodiscard]] Status ensure_stream() noexcept;
  [[nodiscard]] Status enqueue(std::size_t read, ConstHostSpan bytes, StagingRing::Buffer buffer) noexcept;
  [[nodiscard]] Status copy_out(const ReadStep& step, ConstHostSpan bytes) noexcept;
  [[nodiscard]] Status issue(std::size_t read) noexcept;
  // Calls visit(source) for each source that a group reads from.
  template <class Visit>
  void for_each_source(const Group& group, Visit&& visit) const;
  void run_lander() noexcept;
  [[nodiscard]] std::size_t copied_bytes(const ReadStep& step) const noexcept;
  [[nodiscard]] std::uint32_t shown(const ReadStep& step) const noexcept { return attachment_.number + step.group; }
  [[nodiscard]] std::size_t read_bytes(const Group& group) const noexcept;
  [[nodiscard]] Status await_copies(const Landing& landing) noexcept;
  void land(std::size_t read) noexcept;
  void fail(Status status) noexcept;
  [[nodiscard]] bool attached() const noexcept { return attachment_.tell != nullptr; }
  void tell(Stage stage) const noexcept;
  [[nodiscard]] Status tell_failure() const;  // to a waiter; never returns to one that was abandoned
  [[nodiscard]] double elapsed() const noexcept;

  // ticket_sums.cpp
  void take_sums(const ReadStep& step, std::span<const ConstHostSpan> parts) noexcept;
  [[nodiscard]] Status check_sums(const Group& group) const;
  [[nodiscard]] std::uint32_t sum_of(const SumKey& key) const noexcept;

  std::shared_ptr<ReadPool> pool_;  // let go of by close(), under mutex_; nobody who reads or lands is left then
  const std::shared_ptr<Device> device_;
  const std::shared_ptr<const Plan> shared_plan_;
  const Plan& plan_ = *shared_plan_;
  const Attachment attachment_;
  const Clock::time_point started_ = Clock::now();
  const std::shared_ptr<std::atomic<std::size_t>> borrowed_ = std::make_shared<std::atomic<std::size_t>>(0);
  std::vector<std::size_t> keys_by_group_;

  mutable std::mutex mutex_;         // guards the members down to the blank line, and what Group says
  std::condition_variable changed_;  // for who waits for groups
  std::condition_variable worked_;   // for the lander, and who closes
  std::vector<Group> groups_;
  std::deque<std::size_t> returned_;  // reads that were claimed and could not be done yet
  std::deque<std::uint32_t> promoted_;
  std::uint32_t cursor_ = 0;   // first group that may have unclaimed reads
  std::size_t unclaimed_ = 0;  // reads
  bool paused_ = false;
  bool all_claimed_ = false;   // once; a read that is given back does not undo it
  std::size_t under_way_ = 0;  // reads claimed and not settled: nobody else touches the ticket for them later
  Needs expected_;             // what the next read will need, by the last one
  std::deque<Landing> landings_;
  std::vector<Event> spare_events_;
  std::vector<Landing> stranded_;  // copies in flight that no event covers; freed behind the stream
  bool lander_runs_ = false;
  std::size_t reads_landed_ = 0;
  TicketStats stats_;
  Status failure_;
  std::vector<ChunkTrace> traces_;              // entry i belongs to whoever does read i until it is landed
  std::vector<std::optional<Choice>> choices_;  // and so does this one's

  std::stop_source stop_;  // of fetches under way; requested on failure
  std::atomic<bool> failed_{false};
  std::atomic<bool> done_{false};
  std::atomic<bool> abandoned_{false};
  std::atomic<std::int64_t> stall_nanoseconds_{0};
  std::vector<std::atomic<std::size_t>> groups_of_source_;  // groups not issued yet that read from source i
  std::vector<std::uint32_t> sums_;  // entry i belongs to whoever does its read until it is issued

  // Set before the first read and let go of after the last.
  std::vector<std::shared_ptr<Source>> sources_;
  Event allocated_;             // recorded on the stream that allocated the destinations
  std::mutex starting_stream_;  // guards stream_ and the making of stream_view_
  Stream stream_;
  StreamView stream_view_;

  std::mutex closing_;  // serialises close()
};

}  // namespace streamload
