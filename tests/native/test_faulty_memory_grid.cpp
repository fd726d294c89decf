// A drive that writes to memory on a narrow grid, as most NVMe drives do: cold bytes go straight to wherever they
// belong.
#include <fcntl.h>

#include <cerrno>

#include "core/host_block.hpp"
#include "core/kernel_version.hpp"
#include "faulty_calls.hpp"
#include "load_fixture.hpp"

using namespace streamload;
using faulty::Call;
using faulty::Faults;
using faulty::Verdict;

namespace {

constexpr std::size_t kReads = 8;
constexpr std::size_t kFrom = 1000;  // in the file; ends inside a block too
constexpr std::size_t kNbytes = kReads * kChunk - 500;
// The first read and the last one are short, and read into blocks beside their places.
constexpr std::size_t kInPlace = (kReads - 1) * kChunk;

// Loads the file to an address that lies `beside` what its file offset is in a page, from a drive whose memory lies on
// a grid of 4 bytes. The right bytes, and no others, are in place then.
TicketStats load(std::size_t beside, const faulty::Judge& more = {}) {
  const ScratchFile file(kFrom + kNbytes);
  HostBlock block;
  throw_if_error(HostBlock::make(kFrom + beside + kNbytes + 1, -1, block));
  std::fill(block.bytes().begin(), block.bytes().end(), std::byte{0xEE});
  const HostSpan place = block.bytes().subspan(kFrom + beside, kNbytes);
  Plan plan;
  plan.group_count = 1;
  plan.nbytes = kNbytes;
  for (std::size_t at = 0; at < kNbytes;) {
    const std::size_t end = std::min((kFrom + at) / kChunk * kChunk + kChunk - kFrom, kNbytes);
    plan.reads.push_back({0, 0, kFrom + at, end - at, plan.copies.size(), plan.copies.size() + 1});
    plan.copies.push_back({0, reinterpret_cast<std::uintptr_t>(place.data()) + at, end - at});
    at = end;
  }
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  // No io_uring: its reads are the kernel's alone.
  const auto pool = std::make_shared<ReadPool>(ReadPoolOptions{kChunk, 4 * kChunk, 2, false});
  CopyEngine engine(device, pool);
  const Faults faults([&](const Call& call) {
    Verdict verdict = more ? more(call) : Verdict{};
    if (call.name == "statx" || call.name == "preadv") verdict.memory_grid = 4;
    return verdict;
  });
  std::shared_ptr<Ticket> ticket;
  throw_if_error(engine.submit(std::move(plan), {file_source(file, true)}, {}, ticket));
  bool ready = false;
  CHECK(ticket->wait_all(kPatience, ready).ok() && ready);
  CHECK(std::ranges::equal(place, pattern(kFrom, kNbytes)));
  CHECK(*(place.data() - 1) == std::byte{0xEE} && place.data()[kNbytes] == std::byte{0xEE});
  const TicketStats stats = ticket->stats();
  ticket->close();
  return stats;
}

std::uint64_t direct_bytes(const TicketStats& stats) {
  return stats.bytes_by_route[static_cast<std::size_t>(Route::kDirect)];
}

}  // namespace

TEST(memory_on_the_drives_grid_is_read_into_without_staging) {
  if (!kernel_at_least(6, 5)) {
    std::printf("skipped: this kernel does not pin what direct reads write to\n");
    return;
  }
  for (const std::size_t beside : {0U, 4U, 40U, 4096U - 64U}) {
    const TicketStats stats = load(beside);
    CHECK(direct_bytes(stats) == 0 || stats.in_place_bytes == kInPlace);
    CHECK(direct_bytes(stats) == 0 || stats.staging_bytes == 0);
    if (direct_bytes(stats) == 0) std::printf("skipped: no direct route here\n");
  }
}

TEST(memory_off_the_drives_grid_is_staged) {
  for (const std::size_t beside : {1U, 2U, 4095U}) {
    const TicketStats stats = load(beside);
    CHECK(direct_bytes(stats) == 0 || stats.in_place_bytes == 0);
  }
}

TEST(a_drive_that_refuses_the_grid_it_told_of_is_read_through_the_page_cache) {
  std::size_t refusals = 0;
  bool opened_directly = false;
  const TicketStats stats = load(4, [&](const Call& call) {
    opened_directly = opened_directly || (call.name == "open" && (call.detail & O_DIRECT) != 0);
    const bool refused = call.name == "preadv" && opened_directly && refusals == 0;
    refusals += refused ? 1 : 0;
    return Verdict{refused ? EINVAL : 0, {}, {}};
  });
  if (refusals == 0) std::printf("skipped: no direct route here\n");
  CHECK(direct_bytes(stats) < kNbytes);
}
