#include "engine/staging_ring.hpp"

#include <sys/mman.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace streamload {

Status PinnedBlock::make(const std::shared_ptr<Device>& device, std::size_t nbytes, PinnedBlock& out) noexcept {
  void* address = ::mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (address == MAP_FAILED) {
    return Status::failure(
        Code::kOutOfPinnedMemory,
        "mmap of " + std::to_string(nbytes) + " staging bytes: " + std::system_category().message(errno), errno);
  }
  PinnedBlock block;
  block.bytes_ = HostSpan(static_cast<std::byte*>(address), nbytes);
  // Both are advice: huge pages make the first touch 5× and pinning 20× cheaper, touching here keeps the pages
  // on this thread's NUMA node. Refused (old kernel, no huge pages), the memory is only slower to make.
  ::madvise(address, nbytes, MADV_HUGEPAGE);
#ifdef MADV_POPULATE_WRITE
  ::madvise(address, nbytes, MADV_POPULATE_WRITE);
#endif
  if (Status status = device->pin(block.bytes_); !status.ok()) return status;
  block.device_ = device;
  out = std::move(block);
  return {};
}

PinnedBlock::PinnedBlock(PinnedBlock&& other) noexcept
    : device_(std::move(other.device_)), bytes_(std::exchange(other.bytes_, {})) {}

PinnedBlock& PinnedBlock::operator=(PinnedBlock&& other) noexcept {
  std::swap(device_, other.device_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

PinnedBlock::~PinnedBlock() {
  if (device_) device_->unpin(bytes_);
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

StagingRing::Buffer& StagingRing::Buffer::operator=(Buffer&& other) noexcept {
  if (this != &other) {
    give_back();
    ring_ = std::move(other.ring_);
    slot_ = std::move(other.slot_);
  }
  return *this;
}

void StagingRing::Buffer::give_back() noexcept {
  if (!slot_) return;
  ring_->device_->scrub(slot_->block.bytes());
  {
    const std::lock_guard lock(ring_->mutex_);
    ring_->free_.push_back(std::move(slot_));  // never allocates: lease() reserved the room
  }
  ring_->changed_.notify_one();
  ring_.reset();
}

Status StagingRing::lease(const std::stop_token& stop, Buffer& out) noexcept {
  std::unique_lock lock(mutex_);
  Status refused;
  while (true) {
    if (stop.stop_requested()) {
      changed_.notify_one();  // the wake that came here may have been about a buffer that another load waits for
      return Status::failure(Code::kCancelled, "the load was stopped");
    }
    if (!free_.empty()) {
      out = Buffer(shared_from_this(), std::move(free_.back()));
      free_.pop_back();
      return {};
    }
    if (made_ + making_ < most_) {
      ++making_;
      free_.reserve(made_ + making_);
      lock.unlock();
      std::unique_ptr<Slot> slot;
      refused = make_slot(slot);
      lock.lock();
      --making_;
      if (refused.ok()) {
        ++made_;
        out = Buffer(shared_from_this(), std::move(slot));
        return {};
      }
      most_ = made_ + making_;  // no more are to be had: go on with those there are
      changed_.notify_all();
    } else if (made_ + making_ == 0) {
      most_ = 1;  // a later load may find room again
      return refused.ok() ? Status::failure(Code::kOutOfPinnedMemory, "no staging buffer could be made") : refused;
    } else {
      changed_.wait(lock, stop, [&] { return !free_.empty() || made_ + making_ < most_ || made_ + making_ == 0; });
    }
  }
}

Status StagingRing::make_slot(std::unique_ptr<Slot>& out) noexcept {
  auto slot = std::make_unique<Slot>();
  if (Status status = PinnedBlock::make(device_, buffer_bytes_, slot->block); !status.ok()) return status;
  if (Status status = Event::make(device_, slot->landed); !status.ok()) return status;
  out = std::move(slot);
  return {};
}

std::size_t StagingRing::pinned_bytes() const noexcept {
  const std::lock_guard lock(mutex_);
  return made_ * buffer_bytes_;
}

std::size_t StagingRing::leased() const noexcept {
  const std::lock_guard lock(mutex_);
  return made_ - free_.size();
}

}  // namespace streamload
