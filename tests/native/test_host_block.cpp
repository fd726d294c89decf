// Blocks of new host memory: what one mapping is cut into, and what is touched when.
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "check.hpp"
#include "core/host_block.hpp"

using namespace streamload;

namespace {

constexpr std::size_t kHuge = std::size_t{2} << 20;

bool resident(const std::byte* at) {
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  auto* const first = const_cast<std::byte*>(at - reinterpret_cast<std::uintptr_t>(at) % page);
  unsigned char answer = 0;
  CHECK_EQ(::mincore(first, 1, &answer), 0);
  return (answer & 1U) != 0;
}

}  // namespace

TEST(blocks_of_one_mapping_are_zeros_apart_and_freed_one_by_one) {
  const std::array<std::size_t, 6> sizes{kHuge, 0, 5000, 3 * kHuge + 1, 16 * kHuge - 1, kHuge - 1};
  std::vector<HostBlock> blocks;
  REQUIRE(HostBlock::make_all(sizes, blocks).ok());
  REQUIRE(blocks.size() == sizes.size());
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const HostSpan bytes = blocks[i].bytes();
    CHECK_EQ(bytes.size(), sizes[i]);
    CHECK(sizes[i] < kHuge || reinterpret_cast<std::uintptr_t>(bytes.data()) % kHuge == 0);
    CHECK(std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; }));
    std::ranges::fill(bytes, std::byte(i + 1));
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    const auto is_mine = [&](std::byte byte) { return byte == std::byte(i + 1); };
    CHECK(std::ranges::all_of(blocks[i].bytes(), is_mine));
    blocks[i] = HostBlock();  // those that follow stay
  }
}

TEST(more_than_there_is_is_refused) {
  constexpr std::size_t kTooMuch = ~std::size_t{0} - 4096;
  for (const std::array<std::size_t, 2> sizes : {std::array{kHuge, kTooMuch}, std::array{kTooMuch / 4, kTooMuch / 4}}) {
    std::vector<HostBlock> blocks;
    CHECK_EQ(HostBlock::make_all(sizes, blocks).code, Code::kOutOfHostMemory);
    CHECK(blocks.empty());
  }
}

TEST(new_pages_are_touched_and_no_byte_changes) {
  HostBlock block;
  REQUIRE(HostBlock::make(8 * kHuge, -1, block).ok());
  const HostSpan bytes = block.bytes();
  constexpr int kPopulateWrite = 23;
  if (::madvise(bytes.data(), 1, kPopulateWrite) != 0) {
    std::printf("skipped: this kernel touches no page ahead\n");
    return;
  }
  touch_new_pages(bytes.subspan(100, 3 * kHuge));
  CHECK(resident(bytes.data()));
  CHECK(resident(bytes.data() + 3 * kHuge));
  CHECK(!resident(bytes.data() + 5 * kHuge));
  bytes[7 * kHuge] = std::byte{7};
  touch_new_pages(bytes.subspan(6 * kHuge, 2 * kHuge));  // its middle is not new: neither is the rest, as far as known
  CHECK(!resident(bytes.data() + 6 * kHuge));
  CHECK(bytes[7 * kHuge] == std::byte{7});
  CHECK(std::ranges::all_of(bytes.first(4 * kHuge), [](std::byte byte) { return byte == std::byte{0}; }));
}
