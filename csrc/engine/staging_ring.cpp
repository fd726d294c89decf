#include "engine/staging_ring.hpp"

#include <algorithm>
#include <utility>

namespace streamload {
namespace {

constexpr std::size_t kFirstBuffers = 4;  // made without asking: two being read, two being copied
constexpr std::size_t kMostDomains = 8;   // that a buffer is pinned for at once; CUDA is one, however many GPUs
constexpr std::size_t kFewestPinned = 2;  // with fewer, reading and copying could not overlap

}  // namespace

struct StagingRing::Slot {
  HostBlock block;
  std::vector<std::shared_ptr<Device>> pinned_for;  // one of each pin domain
  std::vector<std::uintptr_t> refused_by;           // pin domains
  std::shared_ptr<DirectReader> registered;

  Slot() noexcept = default;
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  ~Slot() {
    if (registered) registered->drop_memory(block.bytes());
    for (const auto& device : pinned_for) device->unpin(block.bytes());
  }
};

StagingRing::Buffer::Buffer(std::shared_ptr<StagingRing> ring, std::unique_ptr<Slot> slot) noexcept
    : ring_(std::move(ring)), slot_(std::move(slot)) {}

StagingRing::Buffer::Buffer() noexcept = default;

StagingRing::Buffer::Buffer(Buffer&& other) noexcept
    : ring_(std::move(other.ring_)),
      slot_(std::move(other.slot_)),
      borrowed_(std::move(other.borrowed_)),
      copying_(std::exchange(other.copying_, false)) {}

StagingRing::Buffer::~Buffer() { give_back(); }

StagingRing::Buffer& StagingRing::Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    give_back();
    ring_ = std::move(other.ring_);
    slot_ = std::move(other.slot_);
    borrowed_ = std::move(other.borrowed_);
    copying_ = std::exchange(other.copying_, false);
  }
  return *this;
}

HostSpan StagingRing::Buffer::bytes() const noexcept { return slot_->block.bytes(); }

void StagingRing::Buffer::mark_copying() noexcept {
  if (std::exchange(copying_, true)) return;
  const std::lock_guard lock(ring_->mutex_);
  ++ring_->copying_;
}

void StagingRing::Buffer::register_with(const std::shared_ptr<DirectReader>& reader) noexcept {
  if (slot_->registered) return;
  reader->add_memory(slot_->block.bytes());
  slot_->registered = reader;
}

void StagingRing::Buffer::give_back() noexcept {
  if (!slot_) return;
  for (const auto& device : slot_->pinned_for) device->scrub(slot_->block.bytes());
  {
    const std::lock_guard lock(ring_->mutex_);
    if (copying_) --ring_->copying_;
    ring_->free_.push_back(std::move(slot_));  // never allocates: the ring has reserved the room
  }
  copying_ = false;
  if (borrowed_) --*borrowed_;
  borrowed_.reset();
  ring_->on_free_();
  ring_.reset();
}

StagingRing::StagingRing(std::size_t buffer_bytes, std::size_t capacity_bytes, std::function<void()> on_free)
    : buffer_bytes_(buffer_bytes),
      capacity_(capacity_bytes / buffer_bytes),
      on_free_(std::move(on_free)),
      most_(capacity_) {}

StagingRing::~StagingRing() = default;

StagingRing::Answer StagingRing::try_lend(bool needy, Buffer& out) noexcept {
  const std::lock_guard lock(mutex_);
  if (!free_.empty()) {
    out = Buffer(shared_from_this(), std::move(free_.back()));
    free_.pop_back();
    return Answer::kLent;
  }
  const std::size_t all = made_ + making_;
  // With half of the buffers waiting for copies, the link is the slow part: more buffers would only be more memory.
  if (all >= most_ || (!needy && all >= kFirstBuffers && copying_ * 2 >= all)) return Answer::kNone;
  ++making_;
  free_.reserve(all + 1);  // room for every slot, so that giving one back never allocates
  return Answer::kGrow;
}

Status StagingRing::grow(int numa_node, Buffer& out) noexcept {
  auto slot = std::make_unique<Slot>();
  Status status = HostBlock::make(buffer_bytes_, numa_node, slot->block);
  if (status.ok()) {
    slot->block.keep_from_children();
    touch_new_pages(slot->block.bytes());  // so that nothing after it can run out of memory
  }
  const std::lock_guard lock(mutex_);
  --making_;
  if (status.ok()) {
    ++made_;
    out = Buffer(shared_from_this(), std::move(slot));
    return {};
  }
  if (made_ + making_ == 0) return status;
  most_ = made_ + making_;  // no more are to be had: go on with those there are
  return {};
}

void StagingRing::give_up_growth() noexcept {
  const std::lock_guard lock(mutex_);
  --making_;
}

void StagingRing::put_back(Buffer& unused) noexcept {
  {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(unused.slot_));
  }
  unused.ring_.reset();
}

void StagingRing::prepare(Buffer& buffer, const std::shared_ptr<Device>& device,
                          std::shared_ptr<std::atomic<std::size_t>> borrowed) noexcept {
  Slot& slot = *buffer.slot_;
  const std::uintptr_t domain = device->pin_domain();
  const auto in_domain = [&](const auto& other) { return other->pin_domain() == domain; };
  const bool settled = std::any_of(slot.pinned_for.begin(), slot.pinned_for.end(), in_domain) ||
                       std::find(slot.refused_by.begin(), slot.refused_by.end(), domain) != slot.refused_by.end();
  if (!settled) {
    const Status status = device->pin(slot.block.bytes());
    std::unique_ptr<Slot> surplus;  // unmapped outside the lock
    const std::lock_guard lock(mutex_);
    if (status.ok()) {
      if (slot.pinned_for.empty()) ++pinned_;
      if (slot.pinned_for.size() == kMostDomains) {  // devices come and go; the pool stays
        slot.pinned_for.front()->unpin(slot.block.bytes());
        slot.pinned_for.erase(slot.pinned_for.begin());
      }
      slot.pinned_for.push_back(device);
    } else {
      refusal_ = status.text;
      if (slot.pinned_for.empty() && pinned_ >= kFewestPinned) {
        surplus = std::move(buffer.slot_);
        buffer.ring_.reset();
        most_ = std::max(--made_ + making_, kFewestPinned);
        return;
      }
      if (slot.refused_by.size() == kMostDomains) slot.refused_by.erase(slot.refused_by.begin());
      slot.refused_by.push_back(domain);
    }
  }
  ++*borrowed;
  buffer.borrowed_ = std::move(borrowed);
}

void StagingRing::release_idle() noexcept {
  std::vector<std::unique_ptr<Slot>> idle;  // unpinned outside the lock
  const std::lock_guard lock(mutex_);
  idle.swap(free_);
  most_ = capacity_;  // what was refused may be had again
  free_.reserve(made_ + making_);
  made_ -= idle.size();
  for (const auto& slot : idle) pinned_ -= slot->pinned_for.empty() ? 0 : 1;
}

std::size_t StagingRing::most() const noexcept {
  const std::lock_guard lock(mutex_);
  return most_;
}

std::size_t StagingRing::bytes() const noexcept {
  const std::lock_guard lock(mutex_);
  return made_ * buffer_bytes_;
}

std::size_t StagingRing::pinned_bytes() const noexcept {
  const std::lock_guard lock(mutex_);
  return pinned_ * buffer_bytes_;
}

std::size_t StagingRing::leased() const noexcept {
  const std::lock_guard lock(mutex_);
  return made_ - free_.size();
}

std::string StagingRing::refusal() const {
  const std::lock_guard lock(mutex_);
  return refusal_;
}

}  // namespace streamload
