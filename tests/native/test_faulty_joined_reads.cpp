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

// Loads the file while calls fail as `judge` says; the right bytes, and no others, are in place then. Returns how many
// reads it took.
std::size_t load(bool use_io_uring, const faulty::Judge& judge) {
  const ScratchFile file(kFileBytes);
  HostBlock block;
  throw_if_error(HostBlock::make(kFileBytes + kDirectAlignment, -1, block));
  std::fill(block.bytes().begin(), block.bytes().end(), std::byte{0xEE});
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  const auto pool = std::make_shared<ReadPool>(ReadPoolOptions{kChunk, 4 * kChunk, 2, use_io_uring});
  CopyEngine engine(device, pool);
  const Faults faults(judge);
  std::shared_ptr<Ticket> ticket;
  throw_if_error(engine.submit(plan_into(block.bytes()), {file_source(file, true)}, {}, ticket));
  bool ready = false;
  CHECK(ticket->wait_all(kPatience, ready).ok() && ready);
  const auto got = block.bytes().subspan(kFrom, kFileBytes - kFrom);
  CHECK(std::ranges::equal(got, pattern(kFrom, kFileBytes - kFrom)));
  CHECK(block.bytes()[kFrom - 1] == std::byte{0xEE} && block.bytes()[kFileBytes] == std::byte{0xEE});
  const std::size_t reads = ticket->trace().size();
  ticket->close();
  return reads;
}

}  // namespace

TEST(a_direct_route_that_ends_on_the_way_leaves_joined_reads_to_the_page_cache) {
  for (const int error : {EINVAL, EOPNOTSUPP, EAGAIN, ECANCELED}) {
    for (std::size_t k = 0; k < 6; ++k) {
      std::size_t calls = 0;
      const std::size_t reads = load(
          false, [&](const Call& call) { return Verdict{call.name == "preadv" && calls++ == k ? error : 0, {}, {}}; });
      CHECK(calls > k);
      CHECK(reads < kReads / 2);
    }
  }
}

TEST(a_ring_that_breaks_on_the_way_leaves_joined_reads_to_the_reading_threads) {
  std::size_t all_enters = 0;
  std::size_t refusals = 0;
  for (std::size_t k = 0; k < 6; ++k) {
    std::size_t enters = 0;
    const std::size_t reads = load(true, [&](const Call& call) {
      const bool refused = call.name == "io_uring_enter" && enters++ >= k;
      refusals += refused ? 1 : 0;
      return Verdict{refused ? EIO : 0, {}, {}};
    });
    CHECK(reads < kReads / 2);
    all_enters += enters;
  }
  CHECK(all_enters == 0 || refusals > 0);
  if (all_enters == 0) std::printf("skipped: no io_uring or no direct route here\n");
}
