// Threads and processes that fill one cache file, some of them killed: every range once, and nothing lost.
#include <sys/wait.h>

#include <atomic>
#include <csignal>
#include <functional>
#include <thread>

#include "cache_fixture.hpp"
#include "check.hpp"

using namespace streamload;

namespace {

// Runs `body` in a child until it ends by itself or, once it has written `most` bytes into its pipe, is killed.
void run_and_kill(std::size_t most, const std::function<void(int)>& body) {
  std::array<int, 2> ends{};
  REQUIRE(::pipe(ends.data()) == 0);
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::close(ends[0]);
    body(ends[1]);
    ::_exit(0);
  }
  ::close(ends[1]);
  char byte = 0;
  for (std::size_t got = 0; got < most && ::read(ends[0], &byte, 1) == 1;) ++got;
  ::kill(child, SIGKILL);
  int status = 0;
  CHECK_EQ(::waitpid(child, &status, 0), child);
  ::close(ends[0]);
}

}  // namespace

TEST(a_claim_ends_with_its_process) {
  const Folder folder;
  const auto mine = open(folder.file());
  run_and_kill(1, [&](int report) {
    const auto theirs = open(folder.file());
    CacheClaim claim;
    if (theirs->try_claim(0, kChunk, claim) != ClaimOutcome::kClaimed) ::_exit(1);
    if (mine->try_claim(0, kChunk, claim) != ClaimOutcome::kBusy) ::_exit(1);
    static_cast<void>(::write(report, "c", 1));
    for (;;) ::pause();
  });
  CacheClaim claim;
  CHECK(mine->try_claim(0, kChunk, claim) == ClaimOutcome::kClaimed);
}

TEST(threads_fetch_each_range_once) {
  const Folder folder;
  std::atomic<std::uint64_t> fetched{0};
  {
    const std::array files = {open(folder.file()), open(folder.file())};
    std::vector<std::jthread> threads;
    for (std::size_t t = 0; t < 6; ++t) {
      threads.emplace_back([&, t] {
        CacheFile& file = *files[t % 2];
        for (std::uint64_t left = kChunks; left > 0;) {
          left = 0;
          for (std::uint64_t i = 0; i < kChunks; ++i) {
            const ByteRange range = chunk((i + 3 * t) % kChunks);
            CacheClaim claim;
            const ClaimOutcome outcome = file.try_claim(range.start, range.end - range.start, claim);
            left += outcome == ClaimOutcome::kBusy ? 1 : 0;
            if (outcome == ClaimOutcome::kBusy) continue;
            if (outcome == ClaimOutcome::kClaimed) {
              fetched += range.end - range.start;
              CHECK(put(file, range));
            }
            CHECK(holds(file, range));
          }
        }
        CHECK(file.publish(folder.file("target"), false).ok());
      });
    }
  }
  CHECK_EQ(fetched.load(), kBytes);
  CHECK(is_the_object(folder.file("target")));
  CHECK_EQ(folder.entries(), 1U);
}

TEST(a_process_killed_anywhere_leaves_what_the_next_can_go_on_with) {
  for (std::size_t after = 0; after <= 2 * kChunks + 2; ++after) {
    const Folder folder;
    const std::string target = folder.file("target");
    run_and_kill(after, [&](int report) {
      const auto file = open(folder.file());
      static_cast<void>(::write(report, "o", 1));
      for (std::uint64_t i = 0; i < kChunks; ++i) {
        CacheClaim claim;
        if (file->try_claim(i * kChunk, kChunk, claim) != ClaimOutcome::kClaimed) ::_exit(1);
        static_cast<void>(::write(report, "c", 1));
        put(*file, chunk(i));
        static_cast<void>(::write(report, "p", 1));
      }
      static_cast<void>(file->publish(target, false));
      static_cast<void>(::write(report, "d", 1));
    });
    if (!std::filesystem::exists(target)) {
      const auto file = open(folder.file());
      const std::uint64_t there = file->covered_bytes();
      CHECK(there + kChunk >= std::min(kBytes, (after > 1 ? (after - 1) / 2 : 0) * kChunk));
      for (std::uint64_t i = 0; i < kChunks; ++i) {
        if (file->covers(i * kChunk, chunk(i).end - i * kChunk)) CHECK(holds(*file, chunk(i)));
      }
      fill(*file);
      CHECK(file->publish(target, false).ok());
    }
    CHECK(is_the_object(target));
    bool removed = false;
    CHECK(CacheFile::remove(folder.file(), removed).ok());
    CHECK_EQ(folder.entries(), 1U);
  }
}
