// Which route a read takes, and what it says of the page cache: on real files, with the kernel's answers withheld.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <utility>

#include "check.hpp"
#include "faulty_calls.hpp"
#include "io/page_cache.hpp"
#include "read_fixture.hpp"

using namespace streamload;
using faulty::Call;
using faulty::fail_all;
using faulty::Faults;
using faulty::Verdict;

namespace {

constexpr std::size_t kFileBytes = (1 << 20) + 1234;
constexpr std::size_t kBytes = 200 << 10;

void warm(const ScratchFile& file) {
  Room room;
  ConstHostSpan out;
  for (std::uint64_t offset = 0; offset < kFileBytes; offset += kBytes) {
    const std::size_t nbytes = std::min<std::size_t>(kBytes, kFileBytes - offset);
    throw_if_error(choose_and_read(*open_file(file, false), offset, nbytes, room.span(), out));
  }
}

// A file whose cache state the machine can tell and change, on a drive with a direct route: else a note, and no test.
bool usable(const ScratchFile& file) {
  const auto state = [&] {
    const UniqueFd fd(::open(file.path().c_str(), O_RDONLY | O_CLOEXEC));
    return page_cache_state(fd.get(), 0, kFileBytes, kFileBytes);
  };
  warm(file);
  const bool warmed = state() == CacheState::kCached;
  file.drop_from_page_cache();
  const bool cooled = state() == CacheState::kUncached;
  const auto source = open_file(file, true);
  Choice choice;
  const bool direct = source->choose(0, 1, choice).ok() && source->direct_grid() > 0;
  if (!warmed || !cooled || !direct) std::printf("skipped: no cachestat(2) or no direct route here\n");
  return warmed && cooled && direct;
}

// Chooses, reads by the choice and checks the bytes.
Choice choose(Source& source) {
  Choice choice;
  Room room;
  ConstHostSpan out;
  CHECK(source.choose(4096, kBytes, choice).ok());
  const Choice chosen = choice;
  CHECK(source.read(4096, kBytes, room.span(), out, choice).ok());
  CHECK(same(out, 4096));
  CHECK(choice.route == chosen.route);
  return choice;
}

void expect(Source& source, Route route, CacheState cache, bool probed) {
  const Choice choice = choose(source);
  CHECK_EQ(choice.route, route);
  CHECK_EQ(choice.cache, cache);
  CHECK_EQ(choice.probed, probed);
}

}  // namespace

TEST(what_the_cache_holds_decides) {
  const ScratchFile file(kFileBytes);
  if (!usable(file)) return;
  const auto source = open_file(file, std::nullopt);
  expect(*source, Route::kDirect, CacheState::kUncached, false);
  expect(*source, Route::kDirect, CacheState::kUncached, false);  // a direct read leaves nothing behind
  warm(file);
  expect(*source, Route::kBuffered, CacheState::kCached, false);
}

TEST(a_forced_route_is_taken_and_the_cache_told_all_the_same) {
  const ScratchFile file(kFileBytes);
  if (!usable(file)) return;
  expect(*open_file(file, false), Route::kBuffered, CacheState::kUncached, false);
  warm(file);
  expect(*open_file(file, true), Route::kDirect, CacheState::kCached, false);
  // Nothing hangs on it, so nothing is probed where the kernel does not count.
  const Faults refused(fail_all("cachestat", EPERM));
  expect(*open_file(file, true), Route::kDirect, CacheState::kUnknown, false);
  expect(*open_file(file, false), Route::kBuffered, CacheState::kUnknown, false);
}

TEST(nine_tenths_make_a_read_cached) {
  const ScratchFile file(kFileBytes);
  if (!usable(file)) return;
  const UniqueFd fd(::open(file.path().c_str(), O_RDONLY | O_CLOEXEC));
  const auto page = static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  const std::uint64_t pages = kFileBytes / page;
  // Pages of which every tenth is missing; then two in ten.
  for (const std::uint64_t missing : {1U, 2U}) {
    ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_RANDOM);
    file.drop_from_page_cache();
    std::byte byte{};
    for (std::uint64_t i = 0; i < pages; ++i) {
      if (i % 10 >= missing && ::pread(fd.get(), &byte, 1, static_cast<off_t>(i * page)) != 1) std::abort();
    }
    const auto want = missing == 1 ? CacheState::kCached : CacheState::kUncached;
    CHECK_EQ(page_cache_state(fd.get(), 0, pages / 10 * 10 * page, kFileBytes), want);
  }
  // A range off the grid counts the pages that it touches; one behind the end has none.
  CHECK_EQ(page_cache_state(fd.get(), 5 * page - 1, 2, kFileBytes), CacheState::kCached);
  CHECK_EQ(page_cache_state(fd.get(), 2 * page - 1, 2, kFileBytes), CacheState::kUncached);
  CHECK_EQ(page_cache_state(fd.get(), kFileBytes, 100, kFileBytes), CacheState::kUnknown);
}

TEST(where_the_kernel_does_not_count_sample_reads_decide) {
  const ScratchFile file(kFileBytes);
  if (!usable(file)) return;
  for (const int error : {EPERM, ENOSYS}) {
    // With RWF_NOWAIT and by the clock. There a cold page takes as long as a slow drive: longer than any clock's grain.
    for (const bool nowait : {true, false}) {
      const Faults refused([&](const Call& call) {
        if (call.name == "cachestat") return Verdict{error, {}, {}};
        return Verdict{call.name == "preadv2" && call.detail == RWF_NOWAIT && !nowait ? EOPNOTSUPP : 0, {}, {}};
      });
      file.drop_from_page_cache();
      const auto source = open_file(file, std::nullopt);
      expect(*source, Route::kDirect, CacheState::kUncached, true);
      warm(file);
      // By the clock, a page that the processor was taken away from looks cold: not every time.
      for (int again = 0; !nowait && again < 50 && choose(*source).cache != CacheState::kCached; ++again) warm(file);
      expect(*source, Route::kBuffered, CacheState::kCached, true);
    }
  }
}

TEST(a_stacked_file_system_is_probed_since_its_count_is_of_the_wrong_file) {
  const ScratchFile file(kFileBytes);
  if (!usable(file)) return;
  const Faults stacked([](const Call& call) {
    CHECK(call.name != "cachestat");
    return Verdict{0, {}, long{OVERLAYFS_SUPER_MAGIC}};
  });
  const auto source = open_file(file, std::nullopt);
  expect(*source, Route::kDirect, CacheState::kUncached, true);
  warm(file);
  expect(*source, Route::kBuffered, CacheState::kCached, true);
  expect(*open_file(file, true), Route::kDirect, CacheState::kUnknown, false);
}

TEST(one_sample_that_lies_does_not_decide) {
  const ScratchFile file(kFileBytes);
  if (!usable(file)) return;
  warm(file);
  std::size_t samples = 0;
  const Faults refused([&](const Call& call) {
    if (call.name == "cachestat") return Verdict{EPERM, {}, {}};
    return Verdict{call.name == "preadv2" && samples++ == 0 ? EAGAIN : 0, {}, {}};
  });
  // Two that agree outvote it. A byte that comes late says nothing: on a busy machine it takes more.
  for (int again = 0; again < 50 && samples != 3; ++again) {
    samples = 0;
    warm(file);
    expect(*open_file(file, std::nullopt), Route::kBuffered, CacheState::kCached, true);
  }
  CHECK_EQ(samples, 3U);
}

TEST(where_nothing_can_be_found_out_reads_are_buffered) {
  const ScratchFile file(kFileBytes);
  if (!usable(file)) return;
  const Faults refused([](const Call& call) {
    const bool question = call.name == "cachestat" || call.name == "preadv2";
    return Verdict{question ? EIO : 0, {}, {}};
  });
  expect(*open_file(file, std::nullopt), Route::kBuffered, CacheState::kUnknown, false);
}

TEST(files_in_memory_are_buffered_and_known_to_be_there) {
  if (::access("/dev/shm", W_OK) != 0) {
    std::printf("skipped: no /dev/shm to write to\n");
    return;
  }
  const ScratchFile file(kFileBytes, "/dev/shm");
  for (const std::optional<bool> direct : {std::optional<bool>(), std::optional(false), std::optional(true)}) {
    const auto source = open_file(file, direct);
    expect(*source, Route::kBuffered, CacheState::kCached, false);
    CHECK_EQ(source->direct_grid(), 0U);
  }
}

TEST(remote_file_systems_are_buffered_unless_forced) {
  const ScratchFile file(kFileBytes);
  if (!usable(file)) return;
  for (const long magic : {long{NFS_SUPER_MAGIC}, 0x65735546L /* FUSE */}) {
    const Faults remote([magic](const Call&) { return Verdict{0, {}, magic}; });
    file.drop_from_page_cache();
    expect(*open_file(file, true), Route::kDirect, CacheState::kUncached, false);
    expect(*open_file(file, std::nullopt), Route::kBuffered, CacheState::kUncached, false);
  }
}

TEST(a_file_system_without_direct_reads_is_buffered) {
  const ScratchFile file(kFileBytes);
  if (!usable(file)) return;
  {  // at open
    const Faults refused([](const Call& call) {
      return Verdict{call.name == "open" && (call.detail & O_DIRECT) != 0 ? EINVAL : 0, {}, {}};
    });
    const auto source = open_file(file, std::nullopt);
    expect(*source, Route::kBuffered, CacheState::kUncached, false);
    CHECK_EQ(source->direct_grid(), 0U);
  }
  {  // at the first read: that one is read again, the next are not tried
    file.drop_from_page_cache();
    const auto source = open_file(file, true);
    Room room;
    ConstHostSpan out;
    Choice choice;
    std::size_t reads = 0;
    const Faults refused(
        [&](const Call& call) { return Verdict{call.name == "preadv" && reads++ == 0 ? EINVAL : 0, {}, {}}; });
    CHECK(choose_and_read(*source, 4096, kBytes, room.span(), out, choice).ok());
    CHECK(same(out, 4096));
    CHECK_EQ(choice.route, Route::kBuffered);
    CHECK_EQ(choice.cache, CacheState::kUncached);
    CHECK_EQ(source->direct_grid(), 0U);
    CHECK_EQ(choose(*source).route, Route::kBuffered);
  }
}

TEST(the_grid_is_a_power_of_two_and_reads_on_it_are_exact) {
  const ScratchFile file(kFileBytes);
  if (!usable(file)) return;
  const auto source = open_file(file, true);
  CHECK_EQ(source->direct_grid(), 0U);  // not known before a read was chosen
  Choice choice;
  CHECK(source->choose(0, 1, choice).ok());
  const std::size_t grid = source->direct_grid();
  CHECK(grid >= 512 && (grid & (grid - 1)) == 0);
  Room room;
  DirectRange range;
  REQUIRE(source->prepare_direct(3 * grid, 5 * grid, room.span().subspan(grid, 5 * grid), range));
  CHECK_EQ(range.lead, 0U);
  CHECK_EQ(range.offset, 3 * grid);
  CHECK_EQ(range.target.size(), 5 * grid);
  CHECK(!source->prepare_direct(3 * grid, 5 * grid, room.span().subspan(1), range));
  CHECK(!source->prepare_direct(3 * grid, 5 * grid, room.span().first(4 * grid), range));
  const Faults unknown(fail_all("statx", ENOSYS));
  const auto older = open_file(file, true);
  CHECK(older->choose(0, 1, choice).ok());
  CHECK_EQ(older->direct_grid(), kDirectAlignment);
}
