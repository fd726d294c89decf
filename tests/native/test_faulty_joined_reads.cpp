// Joined reads, which no staging buffer holds, where the direct route ends on the way: the right bytes by the other
// one.
#include <fcntl.h>

#include <cerrno>

#include "core/host_block.hpp"
#include "faulty_calls.hpp"
#include "load_fixture.hpp"

using namespace streamload;
using faulty::Call;
using faulty::Faults;
using faulty::Verdict;

namespace {

constexpr std::size_t kReads = 256;
constexpr std::size_t kFrom = 1000;  // the place begins and ends inside a block
constexpr std::size_t kFileBytes = kReads * kChunk + kFrom;

Plan plan_into(HostSpan place) {
  Plan plan;
  plan.group_count = 1;
  for (std::size_t at = kFrom; at < kFileBytes;) {
    const std::size_t end = std::min(at / kChunk * kChunk + kChunk, kFileBytes);
    const auto address = reinterpret_cast<std::uintptr_t>(place.data()) + at;
    plan.reads.push_back({0, 0, at, end - at, plan.copies.size(), plan.copies.size() + 1});
    plan.copies.push_back({0, address, end - at});
    plan.nbytes += end - at;
    at = end;
  }
  return plan;
}

}  // namespace

TEST(a_direct_route_that_ends_on_the_way_leaves_joined_reads_to_the_page_cache) {
  const ScratchFile file(kFileBytes);
  HostBlock block;
  REQUIRE(HostBlock::make(kFileBytes + kDirectAlignment, -1, block).ok());
  std::size_t joined = 0;
  for (const bool use_io_uring : {false, true}) {
    for (const int error : {EINVAL, EOPNOTSUPP, EAGAIN}) {
      for (std::size_t k = 0; k < 6; ++k) {
        std::fill(block.bytes().begin(), block.bytes().end(), std::byte{0xEE});
        const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
        const auto pool = std::make_shared<ReadPool>(ReadPoolOptions{kChunk, 4 * kChunk, 2, use_io_uring});
        CopyEngine engine(device, pool);
        std::size_t reads = 0;
        const Faults ended(
            [&](const Call& call) { return Verdict{call.name == "preadv" && reads++ == k ? error : 0, {}, {}}; });
        std::shared_ptr<Ticket> ticket;
        REQUIRE(engine.submit(plan_into(block.bytes()), {file_source(file, true)}, {}, ticket).ok());
        bool ready = false;
        CHECK(ticket->wait_all(kPatience, ready).ok() && ready);
        joined = std::max(joined, kReads - ticket->trace().size());
        const auto got = block.bytes().subspan(kFrom, kFileBytes - kFrom);
        CHECK(std::ranges::equal(got, pattern(kFrom, kFileBytes - kFrom)));
        CHECK(block.bytes()[kFrom - 1] == std::byte{0xEE} && block.bytes()[kFileBytes] == std::byte{0xEE});
        ticket->close();
      }
    }
  }
  CHECK(joined > kReads / 2);
}
