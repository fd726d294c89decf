#include "io/direct_reader.hpp"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <numeric>
#include <system_error>
#include <utility>

#include "core/background_thread.hpp"
#include "core/signals_blocked.hpp"
#include "io/interrupted.hpp"

namespace streamload {
namespace {

constexpr std::size_t kMostInFlight = 4096;
constexpr IoUring::Tag kWake = ~IoUring::Tag{0};
constexpr int kMostRefusals = 16;
// The kernel's limit for one fixed buffer.
constexpr std::size_t kMostFixedBytes = std::size_t{1} << 30;

DepthControl::Time now() noexcept { return std::chrono::steady_clock::now().time_since_epoch(); }

bool holds(HostSpan outer, HostSpan inner) noexcept {
  return std::less_equal<>()(outer.data(), inner.data()) &&
         std::less_equal<>()(inner.data() + inner.size(), outer.data() + outer.size());
}

}  // namespace

Status DirectReader::make(std::size_t most_in_flight, std::unique_ptr<DirectReader>& out) noexcept {
  most_in_flight = std::clamp<std::size_t>(most_in_flight, 1, kMostInFlight);
  std::unique_ptr<IoUring> ring;
  // One entry more than there are requests: the read that waits to be woken.
  if (Status status = IoUring::make(static_cast<std::uint32_t>(most_in_flight + 1), ring); !status.ok()) return status;
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC));
  if (!wake) {
    return Status::failure(Code::kReadFailed, "no direct reader: eventfd: " + std::system_category().message(errno),
                           errno);
  }
  try {
    auto reader = std::make_unique<DirectReader>(most_in_flight, std::move(ring), std::move(wake));
    const SignalsBlocked blocked;
    reader->thread_ = std::jthread([self = reader.get()] { self->run(); });
    out = std::move(reader);
  } catch (const std::system_error& error) {
    return Status::failure(Code::kReadFailed,
                           std::string("no direct reader: cannot start its thread: ") + error.what());
  }
  return {};
}

DirectReader::DirectReader(std::size_t most_in_flight, std::unique_ptr<IoUring> ring, UniqueFd wake)
    : ring_(std::move(ring)),
      wake_(std::move(wake)),
      control_(most_in_flight),
      in_flight_(most_in_flight),
      free_tags_(most_in_flight),
      free_slots_(IoUring::kFixedSlots) {
  std::iota(free_tags_.begin(), free_tags_.end(), 0U);
  std::iota(free_slots_.begin(), free_slots_.end(), IoUring::FixedSlot{0});
}

DirectReader::~DirectReader() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake();
}

void DirectReader::submit(Request request) noexcept {
  bool sleeps = false;
  {
    const std::lock_guard lock(mutex_);
    waiting_.push_back(std::move(request));
    // With the depth full, the next completion looks at what waits.
    const std::size_t in_flight = in_flight_.size() - free_tags_.size();
    sleeps = asleep_ && in_flight < control_.depth();
    if (sleeps) asleep_ = false;
  }
  if (sleeps) wake();
}

void DirectReader::wake() noexcept {
  const std::uint64_t one = 1;
  static_cast<void>(retry_interrupted([&] { return ::write(wake_.get(), &one, sizeof one); }));
}

std::size_t DirectReader::depth() const noexcept {
  const std::lock_guard lock(mutex_);
  return control_.depth();
}

bool DirectReader::has_room() const noexcept {
  const std::lock_guard lock(mutex_);
  return in_flight_.size() - free_tags_.size() + waiting_.size() < control_.depth();
}

void DirectReader::run() noexcept {
  stay_in_background("streamload-ring");
  while (start_waiting()) {
    // One that broke is not asked again: it could wait for ever, with nothing armed to wake it.
    if (const int error = broken_ ? ECANCELED : ring_->submit_and_wait(); error != 0) {
      // A sandbox that was entered meanwhile, or no memory.
      broken_ = broken_ || ++refusals_ >= kMostRefusals || (error != EAGAIN && error != EBUSY);
      while (const auto tag = ring_->take_back()) finish(*tag, -ECANCELED);
      rest();
    } else {
      refusals_ = 0;
    }
    while (const auto completion = ring_->pop()) finish(completion->tag, completion->result);
  }
}

// In the place of waiting in a ring that refuses to. What it took before it broke completes by itself.
void DirectReader::rest() noexcept {
  if (armed_) wake();  // that read ends, and is not begun again
  bool pending = armed_;
  {
    const std::lock_guard lock(mutex_);
    if (broken_ && !waiting_.empty()) return;  // to be given back at once
    asleep_ = true;                            // whoever comes now, wakes
    pending = pending || free_tags_.size() != in_flight_.size();
  }
  pollfd woken{wake_.get(), POLLIN, 0};
  constexpr int kMillisecond = 1;
  if (::poll(&woken, 1, broken_ && !pending ? -1 : kMillisecond) == 1 && !armed_) {
    static_cast<void>(retry_interrupted([&] { return ::read(wake_.get(), &wake_count_, sizeof wake_count_); }));
  }
}

// Pushes what waits, as far as the depth goes. False once all is done and no more will come.
bool DirectReader::start_waiting() noexcept {
  const std::lock_guard lock(mutex_);
  // The last wake-up must have come before the ring goes: it is read into this object.
  if (stopping_ && !armed_ && waiting_.empty() && free_tags_.size() == in_flight_.size()) return false;
  if (!armed_ && !stopping_ && !broken_) {
    armed_ = true;
    const HostSpan count(reinterpret_cast<std::byte*>(&wake_count_), sizeof wake_count_);
    ring_->push_read(wake_.get(), 0, count, {}, kWake);
  }
  while (!waiting_.empty() && in_flight_.size() - free_tags_.size() < control_.depth()) {
    Request& request = waiting_.front();
    const std::uint32_t tag = free_tags_.back();
    free_tags_.pop_back();
    if (request.parts.empty()) {
      ring_->push_read(request.fd, request.offset, request.target, slot_of(request.target), tag);
    } else {
      ring_->push_scattered(request.fd, request.offset, request.parts, tag);
    }
    in_flight_[tag] = std::move(request.done);
    waiting_.pop_front();
  }
  asleep_ = true;
  return true;
}

void DirectReader::finish(IoUring::Tag tag, std::int64_t result) noexcept {
  if (tag == kWake) {
    armed_ = false;
    return;
  }
  Done done;
  {
    const std::lock_guard lock(mutex_);
    asleep_ = false;
    const std::size_t outstanding = in_flight_.size() - free_tags_.size() + waiting_.size();
    if (result > 0) control_.completed(static_cast<std::size_t>(result), outstanding, now());
    done = std::move(in_flight_[tag]);
    free_tags_.push_back(static_cast<std::uint32_t>(tag));
  }
  done(result);
}

std::optional<IoUring::FixedSlot> DirectReader::slot_of(HostSpan target) const noexcept {
  const auto found =
      std::find_if(fixed_.begin(), fixed_.end(), [&](const Fixed& fixed) { return holds(fixed.bytes, target); });
  if (found == fixed_.end()) return {};
  return found->slot;
}

void DirectReader::add_memory(HostSpan memory) noexcept {
  while (!memory.empty()) {
    Fixed piece{memory.first(std::min(memory.size(), kMostFixedBytes)), 0};
    {
      const std::lock_guard lock(mutex_);
      if (free_slots_.empty()) return;
      piece.slot = free_slots_.back();
      free_slots_.pop_back();
    }
    const bool fixed = ring_->fix(piece.slot, piece.bytes);
    const std::lock_guard lock(mutex_);
    if (!fixed) return free_slots_.push_back(piece.slot);
    fixed_.push_back(piece);
    memory = memory.subspan(piece.bytes.size());
  }
}

void DirectReader::drop_memory(HostSpan memory) noexcept {
  std::vector<Fixed> dropped;
  {
    const std::lock_guard lock(mutex_);
    const auto first =
        std::partition(fixed_.begin(), fixed_.end(), [&](const Fixed& fixed) { return !holds(memory, fixed.bytes); });
    dropped.assign(first, fixed_.end());
    fixed_.erase(first, fixed_.end());
  }
  for (const Fixed& piece : dropped) {
    if (!ring_->fix(piece.slot, {})) continue;  // the slot is lost, and its memory pinned until the ring goes
    const std::lock_guard lock(mutex_);
    free_slots_.push_back(piece.slot);
  }
}

}  // namespace streamload
