#include <sys/mman.h>

#include <atomic>
#include <barrier>
#include <cerrno>
#include <cstdlib>
#include <latch>
#include <random>

#include "check.hpp"
#include "io/direct_reader.hpp"
#include "read_fixture.hpp"

using namespace streamload;

namespace {

constexpr std::size_t kFileBytes = 2 << 20;
constexpr std::size_t kMostRead = 64 << 10;

std::unique_ptr<DirectReader> reader_of(std::size_t most) {
  std::unique_ptr<DirectReader> reader;
  const Status status = DirectReader::make(most, reader);
  // Containers forbid it by default; without the note a skip would look like a pass.
  if (!status.ok()) std::printf("skipped: %s\n", status.text.c_str());
  return reader;
}

// Around the page cache where the file system lets us.
UniqueFd open_direct(const ScratchFile& file) {
  UniqueFd fd(::open(file.path().c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT));
  return fd ? std::move(fd) : UniqueFd(::open(file.path().c_str(), O_RDONLY | O_CLOEXEC));
}

// A read of an empty pipe stays in flight until somebody writes: what is under way is up to the test.
struct Pipe {
  UniqueFd out;
  UniqueFd in;
  Pipe() {
    int ends[2] = {-1, -1};
    if (::pipe2(ends, O_CLOEXEC) != 0) std::abort();
    out = UniqueFd(ends[0]);
    in = UniqueFd(ends[1]);
  }
  void give(std::size_t nbytes) const {
    const std::vector<std::byte> bytes(nbytes);
    if (::write(in.get(), bytes.data(), nbytes) != static_cast<ssize_t>(nbytes)) std::abort();
  }
};

// Page-aligned memory of its own, gone when the test says so.
struct Memory {
  HostSpan bytes;
  explicit Memory(std::size_t nbytes)
      : bytes(static_cast<std::byte*>(
                  ::mmap(nullptr, nbytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
              nbytes) {}
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { ::munmap(bytes.data(), bytes.size()); }
};

// Reads one range and waits for it.
std::int64_t read_one(DirectReader& reader, int fd, std::uint64_t offset, HostSpan target) {
  std::int64_t got = 0;
  std::latch done(1);
  reader.submit({fd, offset, target, [&](std::int64_t result) {
                   got = result;
                   done.count_down();
                 }});
  done.wait();
  return got;
}

}  // namespace

TEST(a_scattered_read_fills_its_parts_in_order) {
  const auto reader = reader_of(4);
  if (!reader) return;
  const ScratchFile file(kFileBytes);
  const UniqueFd fd = open_direct(file);
  const Memory memory(kMostRead);
  std::byte* first = memory.bytes.data();
  // The last is behind the file's end by a block, as the block that a file ends in may be.
  const std::array<iovec, 3> parts = {{{first + 8192, 4096}, {first + 12288, 40960}, {first, 8192}}};
  constexpr std::uint64_t kOffset = kFileBytes - 4096 - 40960 - 4096;
  std::int64_t got = 0;
  std::latch done(1);
  reader->submit({fd.get(),
                  kOffset,
                  {},
                  [&](std::int64_t result) {
                    got = result;
                    done.count_down();
                  },
                  parts});
  done.wait();
  CHECK_EQ(got, 4096 + 40960 + 4096);
  CHECK(same(memory.bytes.subspan(8192, 4096 + 40960), kOffset));
  CHECK(same(memory.bytes.first(4096), kFileBytes - 4096));
}

TEST(thousands_of_random_reads_from_several_threads_bring_the_right_bytes) {
  const auto reader = reader_of(32);
  if (!reader) return;
  const ScratchFile file(kFileBytes);
  const UniqueFd fd = open_direct(file);
  constexpr std::size_t kThreads = 4;
  constexpr std::size_t kRounds = 60;
  constexpr std::size_t kBatch = 10;
  const Memory memory(kThreads * kBatch * kMostRead);
  reader->add_memory(memory.bytes.first(memory.bytes.size() / 2));  // the other half is read plainly
  std::atomic<std::size_t> right{0};
  {
    std::vector<std::jthread> threads;
    for (std::size_t thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        std::mt19937 random(static_cast<unsigned>(thread));
        for (std::size_t round = 0; round < kRounds; ++round) {
          std::latch done(kBatch);
          for (std::size_t i = 0; i < kBatch; ++i) {
            const std::size_t nbytes = (random() % 16 + 1) * 4096;
            const std::uint64_t offset = random() % ((kFileBytes - nbytes) / 4096) * 4096;
            const HostSpan target = memory.bytes.subspan((thread * kBatch + i) * kMostRead, nbytes);
            reader->submit({fd.get(), offset, target, [&right, &done, offset, target](std::int64_t result) {
                              const bool all = result == static_cast<std::int64_t>(target.size());
                              if (all && same(target, offset)) ++right;
                              done.count_down();
                            }});
          }
          done.wait();
        }
      });
    }
  }
  CHECK_EQ(right.load(), kThreads * kRounds * kBatch);
}

TEST(what_goes_beyond_the_depth_waits_inside_in_order) {
  const auto reader = reader_of(1);
  if (!reader) return;
  const Pipe pipe;
  constexpr std::size_t kReads = 50;
  std::vector<std::byte> bytes(kReads);
  std::vector<std::size_t> order;
  std::latch done(kReads);
  for (std::size_t i = 0; i < kReads; ++i) {
    CHECK_EQ(reader->has_room(), i == 0);
    reader->submit({pipe.out.get(), 0, HostSpan(bytes).subspan(i, 1), [&, i](std::int64_t result) {
                      CHECK_EQ(result, 1);
                      order.push_back(i);
                      done.count_down();
                    }});
  }
  CHECK_EQ(reader->depth(), 1U);
  pipe.give(kReads);
  done.wait();
  CHECK(reader->has_room());
  REQUIRE(order.size() == kReads);
  CHECK(std::is_sorted(order.begin(), order.end()));
}

TEST(there_is_room_until_the_depth_is_full) {
  const auto reader = reader_of(16);
  if (!reader) return;
  const Pipe pipe;
  std::array<std::byte, 6> bytes{};
  std::latch done(bytes.size());
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    CHECK_EQ(reader->has_room(), i < 4);
    reader->submit({pipe.out.get(), 0, HostSpan(bytes).subspan(i, 1), [&](std::int64_t) { done.count_down(); }});
  }
  pipe.give(bytes.size());
  done.wait();
}

TEST(destruction_waits_for_reads_in_flight_and_for_those_that_wait) {
  auto reader = reader_of(4);
  if (!reader) return;
  const Pipe pipe;
  std::array<std::byte, 9> bytes{};
  std::atomic<std::size_t> done{0};
  for (std::byte& byte : bytes) {
    reader->submit({pipe.out.get(), 0, HostSpan(&byte, 1), [&](std::int64_t) { ++done; }});
  }
  std::latch ending(1);
  std::jthread destroyer([&] {
    ending.count_down();
    reader.reset();
    CHECK_EQ(done.load(), bytes.size());
  });
  ending.wait();
  CHECK_EQ(done.load(), 0U);
  pipe.give(bytes.size());
}

TEST(a_reader_leaves_no_thread_and_no_descriptor) {
  const std::size_t descriptors = count_entries("/proc/self/fd");
  const std::size_t threads = count_entries("/proc/self/task");
  for (int i = 0; i < 20; ++i) {
    if (!reader_of(4)) return;
  }
  CHECK_EQ(count_entries("/proc/self/fd"), descriptors);
  CHECK_EQ(count_entries("/proc/self/task"), threads);
}

TEST(done_may_submit_more) {
  const ScratchFile file(kFileBytes);
  const UniqueFd fd = open_direct(file);
  const Memory memory(4096);
  std::size_t reads = 0;
  std::function<void(std::int64_t)> again;
  {
    const auto reader = reader_of(2);
    if (!reader) return;
    again = [&, reader = reader.get()](std::int64_t result) {
      CHECK_EQ(result, 4096);
      CHECK(same(memory.bytes, reads % 100 * 4096));
      if (++reads < 1000) reader->submit({fd.get(), reads % 100 * 4096, memory.bytes, again});
    };
    reader->submit({fd.get(), 0, memory.bytes, again});
  }  // the chain goes on while the reader waits for its end
  CHECK_EQ(reads, 1000U);
}

TEST(errors_and_the_end_of_the_file_are_reported_as_they_are) {
  const auto reader = reader_of(4);
  if (!reader) return;
  const ScratchFile file(5000);
  const UniqueFd fd = open_direct(file);
  const Memory memory(8192);
  CHECK_EQ(read_one(*reader, fd.get(), 0, memory.bytes), 5000);
  CHECK(same(memory.bytes.first(5000), 0));
  CHECK_EQ(read_one(*reader, fd.get(), 8192, memory.bytes), 0);
  CHECK_EQ(read_one(*reader, -1, 0, memory.bytes), -EBADF);
  CHECK_EQ(read_one(*reader, fd.get(), 0, HostSpan()), 0);
  const UniqueFd directory(::open("/", O_RDONLY | O_CLOEXEC));
  CHECK_EQ(read_one(*reader, directory.get(), 0, memory.bytes), -EISDIR);
}

TEST(memory_comes_and_goes_more_often_than_the_table_has_places) {
  const auto reader = reader_of(4);
  if (!reader) return;
  const ScratchFile file(kFileBytes);
  const UniqueFd fd = open_direct(file);
  for (std::size_t i = 0; i < 3000; ++i) {
    const Memory memory(8192);
    reader->add_memory(memory.bytes);
    if (i % 100 == 0) {
      CHECK_EQ(read_one(*reader, fd.get(), 4096, memory.bytes), 8192);
      CHECK(same(memory.bytes, 4096));
    }
    reader->drop_memory(memory.bytes);
  }
}

TEST(a_read_lands_in_the_memory_that_is_there_now) {
  const auto reader = reader_of(4);
  if (!reader) return;
  const ScratchFile file(kFileBytes);
  const UniqueFd fd = open_direct(file);
  const Memory memory(16384);
  reader->add_memory(memory.bytes);
  reader->drop_memory(memory.bytes);
  reader->drop_memory(memory.bytes);  // not there: nothing happens
  // New pages at the same address. Reads into the pinned old ones would not be seen.
  REQUIRE(::mmap(memory.bytes.data(), memory.bytes.size(), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory.bytes.data());
  CHECK_EQ(read_one(*reader, fd.get(), 0, memory.bytes), 16384);
  CHECK(same(memory.bytes, 0));
}

TEST(memory_that_cannot_be_pinned_and_reads_across_its_edge_are_read_plainly) {
  const auto reader = reader_of(4);
  if (!reader) return;
  const ScratchFile file(kFileBytes);
  const UniqueFd fd = open_direct(file);
  const Memory memory(16384);
  const Memory gone(8192);
  REQUIRE(::mprotect(gone.bytes.data(), gone.bytes.size(), PROT_NONE) == 0);
  reader->add_memory(gone.bytes);
  CHECK_EQ(read_one(*reader, fd.get(), 0, gone.bytes), -EFAULT);
  reader->add_memory(memory.bytes.first(8192));
  CHECK_EQ(read_one(*reader, fd.get(), 0, memory.bytes.first(8192)), 8192);
  CHECK_EQ(read_one(*reader, fd.get(), 0, memory.bytes), 16384);
  CHECK(same(memory.bytes, 0));
}

TEST(a_file_source_is_read_through_the_ring) {
  const auto reader = reader_of(4);
  if (!reader) return;
  const ScratchFile file(kFileBytes + 1234);
  const auto source = open_file(file, true);
  Room room;
  for (const std::uint64_t offset : {0UL, 1UL, 4095UL, 4096UL, 70001UL, kFileBytes + 1000UL}) {
    for (const std::size_t nbytes : {1UL, 511UL, 4096UL, 100000UL}) {
      const std::size_t count = std::min<std::size_t>(nbytes, kFileBytes + 1234 - offset);
      DirectRange range;
      if (!source->prepare_direct(offset, count, room.span(), range)) {
        std::printf("skipped: no direct route here\n");
        return;
      }
      source->retire();  // what was prepared holds on to its descriptor
      ConstHostSpan out;
      bool again = false;
      const std::int64_t result = read_one(*reader, range.fd, range.offset, range.target);
      CHECK(source->finish_direct(range, offset, count, result, out, again).ok());
      CHECK(!again);
      CHECK_EQ(out.size(), count);
      CHECK(same(out, offset));
    }
  }
}
