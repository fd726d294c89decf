// The threads that read and the staging memory they read into: one pool for the loads of a process, whatever devices
// they go to.
//
// Each reading thread takes the next read of the next load in turn, so that loads share threads and buffers fairly;
// a load never holds more than its share of the ring while others want some of it. Reads around the page cache are
// handed to one io_uring, as many as its depth asks for; the reading threads do all others, and these too where the
// kernel refuses io_uring. A thread never waits for a buffer while it has claimed a read.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "engine/staging_ring.hpp"
#include "io/direct_reader.hpp"

namespace streamload {

struct ReadPoolOptions {
  std::size_t chunk_bytes = 0;    // largest read, and the size of a staging buffer
  std::size_t staging_bytes = 0;  // most the ring grows to
  std::size_t read_threads = 0;
  bool use_io_uring = true;
  std::uint64_t debug_seed = 0;  // not 0: delays at random whatever a load does
};

// A load as the pool sees it. Every call but serve() is made under the pool's lock and returns at once.
class Reading {
 public:
  // What the next read needs, as far as can be told before it is claimed.
  struct Needs {
    bool read = false;    // there is one
    bool buffer = false;  // of the staging ring
    bool direct = false;  // room among the direct reads in flight
  };

  virtual ~Reading() = default;
  Reading() = default;
  Reading(const Reading&) = delete;
  Reading& operator=(const Reading&) = delete;

  [[nodiscard]] virtual Needs needs() noexcept = 0;
  [[nodiscard]] virtual bool claim(std::size_t& read) noexcept = 0;
  [[nodiscard]] virtual const std::shared_ptr<Device>& device() const noexcept = 0;
  // How many staging buffers the load holds now.
  [[nodiscard]] virtual const std::shared_ptr<std::atomic<std::size_t>>& borrowed() const noexcept = 0;

  // Does a claimed read, on a thread of the pool. Without a buffer where none was wanted or none could be made.
  virtual void serve(std::size_t read, std::uint32_t thread, StagingRing::Buffer buffer) noexcept = 0;
  // Told that the pool ends, under its lock: no read is claimed any more.
  virtual void stop() noexcept = 0;
  // Told instead of serve() that there is no staging memory at all.
  virtual void refuse(std::size_t read, Status status) noexcept = 0;
};

class ReadPool {
 public:
  explicit ReadPool(const ReadPoolOptions& options);
  ReadPool(const ReadPool&) = delete;
  ReadPool& operator=(const ReadPool&) = delete;
  ~ReadPool() { close(); }

  // Stops the loads that are left and joins the threads. Idempotent, and every caller waits. Called by one of the
  // pool's own reading threads it does nothing.
  void close() noexcept;
  // Starts to serve a load, until it is removed. Fails where no thread can be started, and after close().
  [[nodiscard]] Status add(Reading& reading) noexcept;
  // From the next load on there are at least so many reading threads: for sources that wait more than they work.
  void widen(std::size_t threads) noexcept;
  // No read is claimed after it returns; those that were may still be under way. Harmless when repeated.
  void remove(Reading& reading) noexcept;
  // Says that what a load wants may have changed.
  void poke() noexcept;
  // In debugging, blocks for up to 200 µs, now and then; returns early when the pool ends.
  void delay() noexcept;
  // Runs `body` on a thread of its own that is kept for the next; fails where none can be started.
  [[nodiscard]] Status run(std::function<void()> body) noexcept;

  // The reader of reads around the page cache, made at first use; empty where the kernel refuses.
  [[nodiscard]] std::shared_ptr<DirectReader> direct_reader() noexcept;
  [[nodiscard]] StagingRing& ring() noexcept { return *ring_; }
  [[nodiscard]] const ReadPoolOptions& options() const noexcept { return options_; }
  // The load that the calling thread reads for, if it is a reading thread at work.
  [[nodiscard]] const Reading* served_here() const noexcept;

 private:
  struct Claim {
    Reading* reading = nullptr;
    std::size_t read = 0;
    bool wants_buffer = false;
    StagingRing::Answer answer = StagingRing::Answer::kNone;
    StagingRing::Buffer buffer;
  };

  void run_reader(std::uint32_t thread) noexcept;
  void run_bodies() noexcept;
  [[nodiscard]] bool pick(Claim& claim) noexcept;  // under mutex_
  [[nodiscard]] bool offer(Reading& reading, std::size_t share, Claim& claim) noexcept;
  void serve(Claim& claim, std::uint32_t thread) noexcept;

  const ReadPoolOptions options_;
  const std::shared_ptr<StagingRing> ring_;

  std::mutex direct_mutex_;  // guards the two below
  bool direct_tried_ = false;
  std::shared_ptr<DirectReader> direct_;
  std::atomic<const DirectReader*> direct_now_{nullptr};  // direct_ for those who only ask whether it has room

  struct Worker {
    std::thread::id id;
    const Reading* serves = nullptr;
  };

  mutable std::mutex mutex_;  // guards everything below
  std::condition_variable work_;
  std::condition_variable bodies_changed_;
  std::condition_variable ends_;
  std::vector<Reading*> readings_;
  std::size_t read_threads_;  // wanted
  std::size_t turn_ = 0;
  bool ending_ = false;
  std::vector<std::function<void()>> bodies_;  // not started yet
  std::minstd_rand random_;                    // of delay()
  std::size_t idle_bodies_ = 0;                // threads that wait for one
  std::vector<Worker> workers_;                // one for each of readers_
  std::vector<std::jthread> readers_;
  std::vector<std::jthread> runners_;

  std::mutex closing_;  // serialises close()
};

}  // namespace streamload
