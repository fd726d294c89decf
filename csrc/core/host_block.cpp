#include "core/host_block.hpp"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

namespace streamload {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;  // of x86-64, and of arm64 with 4 KiB pages

void prefer_node(HostSpan memory, int node) noexcept {
  constexpr int kMostNodes = 64;
  if (node < 0 || node >= kMostNodes) return;
  const unsigned long mask = 1UL << static_cast<unsigned>(node);
  // Advice, as what follows it: refused (a container, one node only), the memory is merely further away.
  ::syscall(SYS_mbind, memory.data(), memory.size(), MPOL_PREFERRED, &mask, kMostNodes + 1, 0);
}

}  // namespace

Status HostBlock::make(std::size_t nbytes, int numa_node, HostBlock& out) noexcept {
  const bool huge = nbytes >= kHugePageBytes;
  const std::size_t room = huge ? nbytes + kHugePageBytes : nbytes;
  void* mapped = ::mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) {
    return Status::failure(
        Code::kOutOfHostMemory,
        "mmap of " + std::to_string(nbytes) + " bytes of host memory: " + std::system_category().message(errno), errno);
  }
  auto* first = static_cast<std::byte*>(mapped);
  HostBlock block;
  block.bytes_ = HostSpan(first, nbytes);
  if (huge) {  // give back what lies before and behind the aligned part
    const std::size_t page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const std::size_t before = -reinterpret_cast<std::uintptr_t>(first) % kHugePageBytes;
    const std::size_t end = (before + nbytes + page - 1) / page * page;
    if (before > 0) ::munmap(first, before);
    if (end < room) ::munmap(first + end, room - end);
    block.bytes_ = HostSpan(first + before, nbytes);
    ::madvise(block.bytes_.data(), nbytes, MADV_HUGEPAGE);
  }
  prefer_node(block.bytes_, numa_node);
  out = std::move(block);
  return {};
}

void HostBlock::keep_from_children() const noexcept { ::madvise(bytes_.data(), bytes_.size(), MADV_DONTFORK); }

void HostBlock::populate() const noexcept {
#ifdef MADV_POPULATE_WRITE
  ::madvise(bytes_.data(), bytes_.size(), MADV_POPULATE_WRITE);
#endif
}

HostBlock::HostBlock(HostBlock&& other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}

HostBlock& HostBlock::operator=(HostBlock&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  return *this;
}

HostBlock::~HostBlock() {
  if (!bytes_.empty()) ::munmap(bytes_.data(), bytes_.size());
}

}  // namespace streamload
