#include "core/host_block.hpp"

#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <system_error>
#include <utility>

namespace streamload {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;  // of x86-64, and of arm64 with 4 KiB pages
constexpr std::size_t kMostWasted = 8;                        // a whole last page takes at most this part more
constexpr std::size_t kMostBytes = std::size_t{1} << 62;      // no address space has as many

std::size_t round_up(std::size_t nbytes, std::size_t unit) noexcept { return (nbytes + unit - 1) / unit * unit; }
std::size_t page_bytes() noexcept { return static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)); }

void prefer_node(HostSpan memory, int node) noexcept {
  constexpr int kMostNodes = 64;
  if (node < 0 || node >= kMostNodes) return;
  const unsigned long mask = 1UL << static_cast<unsigned>(node);
  // Advice, as what follows it: refused (a container, one node only), the memory is merely further away.
  ::syscall(SYS_mbind, memory.data(), memory.size(), MPOL_PREFERRED, &mask, kMostNodes + 1, 0);
}

Status refused(std::size_t nbytes, int error) {
  return Status::failure(Code::kOutOfHostMemory,
                         "the system refuses " + std::to_string(nbytes) +
                             " bytes of host memory: " + std::system_category().message(error),
                         error);
}

// Whole pages for at least so many bytes: from a huge page on, and on huge ones, where asked for.
Status map(std::size_t nbytes, bool huge, HostSpan& out) noexcept {
  const std::size_t wanted = round_up(nbytes, page_bytes());
  const std::size_t room = huge ? wanted + kHugePageBytes : wanted;
  void* mapped = ::mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return refused(nbytes, errno);
  auto* first = static_cast<std::byte*>(mapped);
  if (huge) {  // give back what lies before and behind the aligned part
    const std::size_t before = -reinterpret_cast<std::uintptr_t>(first) % kHugePageBytes;
    if (before > 0) ::munmap(first, before);
    first += before;
    ::munmap(first + wanted, kHugePageBytes - before);
    ::madvise(first, wanted, MADV_HUGEPAGE);
  }
  out = HostSpan(first, wanted);
  return {};
}

}  // namespace

void touch_new_pages(HostSpan memory) noexcept {
  constexpr int kPopulateWrite = 23;  // Linux 5.14; the headers of older systems do not have it
  const auto page_of = [](std::byte* at) { return at - reinterpret_cast<std::uintptr_t>(at) % page_bytes(); };
  unsigned char resident = 0;
  if (::mincore(page_of(memory.data() + memory.size() / 2), 1, &resident) == 0 && (resident & 1U) != 0) return;
  std::byte* const end = memory.data() + memory.size();
  // A huge page at a time: whoever maps memory meanwhile waits for one call.
  for (std::byte* at = page_of(memory.data()); at < end;) {
    const std::size_t nbytes = std::min<std::size_t>(static_cast<std::size_t>(end - at), kHugePageBytes);
    if (::madvise(at, nbytes, kPopulateWrite) != 0) return;
    at += nbytes;
  }
}

Status HostBlock::make(std::size_t nbytes, int numa_node, HostBlock& out) noexcept {
  HostSpan mapping;
  if (Status status = map(nbytes, nbytes >= kHugePageBytes, mapping); !status.ok()) return status;
  prefer_node(mapping, numa_node);
  out = HostBlock(mapping.first(nbytes), mapping.size());
  return {};
}

Status HostBlock::make_all(std::span<const std::size_t> sizes, std::vector<HostBlock>& out) noexcept {
  std::size_t room = 0;  // of those that are mapped, each from a huge page on
  for (const std::size_t nbytes : sizes) {
    if (nbytes > kMostBytes - room) return refused(nbytes, ENOMEM);
    if (nbytes >= kHugePageBytes) room += round_up(nbytes, kHugePageBytes);
  }
  HostSpan left;
  if (Status status = room == 0 ? Status() : map(room, true, left); !status.ok()) return status;
  std::vector<HostBlock> made;
  made.reserve(sizes.size());
  for (const std::size_t nbytes : sizes) {
    if (nbytes < kHugePageBytes) {
      auto* const memory = static_cast<std::byte*>(std::calloc(nbytes, 1));  // NOLINT(*-no-malloc, *-owning-memory)
      if (memory == nullptr && nbytes > 0) {
        if (!left.empty()) ::munmap(left.data(), left.size());
        return refused(nbytes, ENOMEM);
      }
      made.push_back(HostBlock(HostSpan(memory, nbytes), 0));
      continue;
    }
    const std::size_t taken = round_up(nbytes, kHugePageBytes);
    std::size_t mapped = taken;
    if (taken - nbytes > nbytes / kMostWasted) {  // no huge page lies over an end of what is mapped
      mapped = round_up(nbytes, page_bytes());
      ::munmap(left.data() + mapped, taken - mapped);
    }
    made.push_back(HostBlock(left.first(nbytes), mapped));
    left = left.subspan(taken);
  }
  out = std::move(made);
  return {};
}

void HostBlock::keep_from_children() const noexcept { ::madvise(bytes_.data(), bytes_.size(), MADV_DONTFORK); }

HostBlock::HostBlock(HostBlock&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), mapped_(std::exchange(other.mapped_, 0)) {}

HostBlock& HostBlock::operator=(HostBlock&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(mapped_, other.mapped_);
  return *this;
}

HostBlock::~HostBlock() {
  if (mapped_ != 0) {
    ::munmap(bytes_.data(), mapped_);
  } else {
    std::free(bytes_.data());  // NOLINT(*-no-malloc, *-owning-memory)
  }
}

}  // namespace streamload
