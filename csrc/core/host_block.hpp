// Anonymous host memory on huge pages where the system grants them.
//
// Fresh memory is the dearest part of a load: its first touch costs 0.5–0.9 s/GiB on 4 KiB pages and about 0.1 s/GiB
// on huge ones, pinning it 20× less. No block is touched as it is made, so that the thread that fills the memory pays
// for it while it is warm in its cache.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "core/spans.hpp"
#include "core/status.hpp"

namespace streamload {

// Touches every page that memory lies on, as a write would, unless the one in its middle was touched before. Changes no
// byte. Advice: an old kernel ignores it, and what it refuses will fail where it is used.
void touch_new_pages(HostSpan memory) noexcept;

// Owner of one block: move-only; 2 MiB-aligned from 2 MiB on, and page-aligned below where `make` made it.
class HostBlock {
 public:
  HostBlock() noexcept = default;
  // `numa_node`: where the pages are to lie if there is room; -1 leaves it to the thread that touches them first.
  [[nodiscard]] static Status make(std::size_t nbytes, int numa_node, HostBlock& out) noexcept;
  // Several at once, each freed by itself: one mapping is made for all, since every call for another waits for the
  // page faults of threads that read. The last huge page of a block is a whole one where that takes at most an eighth
  // of the block more. Blocks below 2 MiB come from the heap, aligned as it aligns. All are zeros.
  [[nodiscard]] static Status make_all(std::span<const std::size_t> sizes, std::vector<HostBlock>& out) noexcept;
  HostBlock(HostBlock&& other) noexcept;
  HostBlock& operator=(HostBlock&& other) noexcept;
  HostBlock(const HostBlock&) = delete;
  HostBlock& operator=(const HostBlock&) = delete;
  ~HostBlock();

  [[nodiscard]] HostSpan bytes() const noexcept { return bytes_; }
  // Leaves the memory out of forked children: pinned pages would be copied at once, at the price of a slow fork.
  void keep_from_children() const noexcept;

 private:
  HostBlock(HostSpan bytes, std::size_t mapped) noexcept : bytes_(bytes), mapped_(mapped) {}

  HostSpan bytes_;
  std::size_t mapped_ = 0;  // whole pages from there on; 0 where it is the heap's
};

}  // namespace streamload
