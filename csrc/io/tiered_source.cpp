#include "io/tiered_source.hpp"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "core/leak.hpp"

namespace streamload {
namespace {

using Clock = TaskThreads::Clock;

constexpr std::size_t kMostLooking = 64;
constexpr auto kFirstLook = std::chrono::milliseconds(2);
constexpr auto kLastLook = std::chrono::milliseconds(20);
// Somebody who has a claim and puts nothing: stopped in a debugger, say.
constexpr auto kPatience = std::chrono::seconds(30);

std::size_t bytes_of(const std::vector<HostSpan>& targets) noexcept {
  std::size_t nbytes = 0;
  for (const HostSpan target : targets) nbytes += target.size();
  return nbytes;
}

// The memory of [first, first + nbytes) of what `targets` hold in order.
std::vector<HostSpan> part_of(const std::vector<HostSpan>& targets, std::size_t first, std::size_t nbytes) {
  std::vector<HostSpan> part;
  for (const HostSpan target : targets) {
    const std::size_t skipped = std::min(first, target.size());
    const HostSpan some = target.subspan(skipped).first(std::min(nbytes, target.size() - skipped));
    if (!some.empty()) part.push_back(some);
    first -= skipped;
    nbytes -= some.size();
  }
  return part;
}

}  // namespace

TierThreads::TierThreads() : owner_(::getpid()) {}

TierThreads::~TierThreads() {
  // Of the parent's threads nothing can be ended in a forked child.
  if (owner_ != ::getpid()) leak(std::move(threads_));
  close();
}

void TierThreads::close() noexcept {
  if (owner_ != ::getpid()) return;
  threads_->reading.close();
  threads_->writing.close();
  threads_->publishing.close();
}

// One range on its way. Whoever runs one of its steps holds it.
class TieredSource::Fetch : public std::enable_shared_from_this<Fetch> {
 public:
  Fetch(std::shared_ptr<const Parts> parts, std::uint64_t offset, std::vector<HostSpan> targets, std::stop_token stop,
        FetchDone done)
      : parts_(std::move(parts)),
        offset_(offset),
        targets_(std::move(targets)),
        nbytes_(bytes_of(targets_)),
        stop_(std::move(stop)),
        done_(std::move(done)) {}

  // Goes on with what is missing, on a thread for it.
  void advance_soon() noexcept {
    if (received_ == nbytes_) return finish({});
    const bool runs = threads().reading.run([self = shared_from_this()] { self->advance(); });
    if (!runs) finish(closed());
  }

 private:
  [[nodiscard]] TierThreads::Threads& threads() const noexcept { return *parts_->shared->threads_; }
  [[nodiscard]] CacheFile& file() const noexcept { return *parts_->file; }
  [[nodiscard]] static Status closed() { return Status::failure(Code::kClosed, "the tiers' threads are closed"); }

  void advance() noexcept {
    while (received_ < nbytes_) {
      if (stop_.stop_requested()) return finish(Status::failure(Code::kCancelled, "the read was cancelled"));
      const std::uint64_t at = offset_ + received_;
      const std::vector<ByteRange> gaps = file().missing(at, nbytes_ - received_);
      const std::uint64_t start = gaps.empty() ? offset_ + nbytes_ : gaps.front().start;
      if (start > at) {
        const auto some = static_cast<std::size_t>(start - at);
        // A file that was cut off, or a drive that fails: the inner source has the bytes, too.
        if (!file().read(at, part_of(targets_, received_, some)).ok()) return fetch_inner(some);
        received_ += some;
        counts_.tier_bytes += some;
        continue;
      }
      const auto some = static_cast<std::size_t>(gaps.front().end - start);
      switch (file().try_claim(start, some, claim_)) {
        case ClaimOutcome::kCovered: break;
        case ClaimOutcome::kClaimed:
          if (file().missing(start, some) == std::vector{gaps.front()}) return fetch_inner(some);
          claim_.release();  // a part of it was put meanwhile
          break;
        case ClaimOutcome::kBusy:
          if (is_patient()) return look_again();
          return fetch_inner(some);
      }
    }
    finish({});
  }

  // Whether others' claims come to something.
  [[nodiscard]] bool is_patient() noexcept {
    const Clock::time_point now = Clock::now();
    const std::uint64_t covered = file().covered_bytes();
    if (covered != covered_bytes_) patient_until_ = now + kPatience;
    covered_bytes_ = covered;
    return now < patient_until_;
  }

  void look_again() noexcept {
    ++parts_->shared->looking_;
    const Clock::duration delay = std::exchange(next_look_, std::min<Clock::duration>(next_look_ * 2, kLastLook));
    const bool runs = threads().reading.run_after(delay, [self = shared_from_this()] {
      --self->parts_->shared->looking_;
      self->advance();
    });
    if (runs) return;
    --parts_->shared->looking_;
    finish(closed());
  }

  void fetch_inner(std::size_t some) noexcept {
    next_look_ = kFirstLook;
    parts_->inner->fetch(offset_ + received_, part_of(targets_, received_, some), stop_,
                         [self = shared_from_this(), some](Status status, const FetchCounts& counts) {
                           self->take(std::move(status), counts, some);
                         });
  }

  // On a thread of the inner source.
  void take(Status status, const FetchCounts& counts, std::size_t some) noexcept {
    counts_ += counts;
    if (!status.ok()) return finish(std::move(status));
    const std::size_t first = std::exchange(received_, received_ + some);
    if (!claim_ || file().broken() != 0) return go_on();
    if (!threads().writing.run([self = shared_from_this(), first, some] { self->put(first, some); })) go_on();
  }

  void go_on() noexcept {
    claim_.release();
    advance_soon();
  }

  // Before the fetch is done, and its memory somebody else's: what is left out is fetched again by the next load.
  void put(std::size_t first, std::size_t some) noexcept {
    const std::vector<HostSpan> targets = part_of(targets_, first, some);
    const std::vector<ConstHostSpan> parts(targets.begin(), targets.end());
    if (file().put(offset_ + first, parts)) counts_.tier_written_bytes += some;
    settle_soon(*parts_);
    go_on();
  }

  // To write a file out may take long: others' bytes are not to wait behind it.
  static void settle_soon(const Parts& parts) noexcept {
    if (!parts.file->can_settle()) return;
    static_cast<void>(parts.shared->threads_->publishing.run([file = parts.file] { file->settle(); }));
  }

  void finish(Status status) noexcept {
    claim_.release();
    if (!status.ok() && status.source.empty()) {
      status.source = parts_->inner->url();
      status.offset = offset_;
      status.nbytes = nbytes_;
    }
    const FetchDone done = std::move(done_);
    done(std::move(status), counts_);
  }

  const std::shared_ptr<const Parts> parts_;
  const std::uint64_t offset_;
  const std::vector<HostSpan> targets_;
  const std::size_t nbytes_;
  const std::stop_token stop_;
  FetchDone done_;

  std::size_t received_ = 0;  // bytes from the start that are in place
  FetchCounts counts_;
  CacheClaim claim_;  // of what the inner source fetches
  Clock::duration next_look_ = kFirstLook;
  Clock::time_point patient_until_ = Clock::time_point::max();
  std::uint64_t covered_bytes_ = ~std::uint64_t{0};  // when it was patient last
};

Status TieredSource::make(std::shared_ptr<TierThreads> threads, std::shared_ptr<Source> inner,
                          std::shared_ptr<CacheFile> file, std::shared_ptr<Source>& out) {
  if (!inner->fetches()) {
    return Status::failure(Code::kInvalid, inner->url() + ": a tier needs a source that fetches behind it");
  }
  out = std::make_shared<TieredSource>(std::move(threads), std::move(inner), std::move(file));
  return {};
}

TieredSource::TieredSource(std::shared_ptr<TierThreads> threads, std::shared_ptr<Source> inner,
                           std::shared_ptr<CacheFile> file)
    : parts_(std::make_shared<const Parts>(Parts{std::move(threads), std::move(inner), std::move(file)})) {}

bool TieredSource::has_room() const noexcept {
  return parts_->inner->has_room() && parts_->shared->looking_ < kMostLooking;
}

void TieredSource::fetch(std::uint64_t offset, std::vector<HostSpan> targets, std::stop_token stop,
                         FetchDone done) noexcept {
  Choice choice;
  if (Status status = choose(offset, bytes_of(targets), choice); !status.ok()) return done(std::move(status), {});
  std::make_shared<Fetch>(parts_, offset, std::move(targets), std::move(stop), std::move(done))->advance_soon();
}

Status TieredSource::read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                          Choice& choice) noexcept {
  choice.route = Route::kRemote;
  out = buffer.first(nbytes);
  return fetch_and_wait(*this, offset, buffer.first(nbytes));
}

}  // namespace streamload
