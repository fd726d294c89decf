// Where system call k of a direct reader fails, for every k: a Status, or every request done once with what became of
// it. Never a hang: the reader's destruction waits for all that was submitted.
#include <sys/mman.h>
#include <sys/syscall.h>

#include <atomic>
#include <cerrno>
#include <latch>

#include "check.hpp"
#include "faulty_calls.hpp"
#include "io/direct_reader.hpp"
#include "read_fixture.hpp"

using namespace streamload;
using faulty::Call;
using faulty::fail_all;
using faulty::fail_at;
using faulty::Faults;
using faulty::Verdict;

namespace {

constexpr std::size_t kReads = 12;
constexpr std::size_t kBytes = 16 << 10;

struct Outcome {
  Status made;
  std::array<std::atomic<int>, kReads> times{};
  std::array<std::atomic<std::int64_t>, kReads> results{};
};

// A reader from its making to its end: fixed and plain memory, more requests than the depth.
void read_all(int fd, Outcome& out) {
  alignas(kDirectAlignment) static std::array<std::byte, kReads * kBytes> memory;
  memory.fill(std::byte{0xAA});
  std::unique_ptr<DirectReader> reader;
  out.made = DirectReader::make(8, reader);
  if (!out.made.ok()) return;
  reader->add_memory(HostSpan(memory).first(kReads / 2 * kBytes));
  std::latch done(kReads);
  for (std::size_t i = 0; i < kReads; ++i) {
    reader->submit({fd, i * kBytes, HostSpan(memory).subspan(i * kBytes, kBytes), [&, i](std::int64_t result) {
                      ++out.times[i];
                      out.results[i] = result;
                      done.count_down();
                    }});
  }
  done.wait();
  reader->drop_memory(HostSpan(memory));
  reader.reset();
  for (std::size_t i = 0; i < kReads; ++i) {
    CHECK_EQ(out.times[i].load(), 1);
    if (out.results[i] < 0) continue;
    CHECK_EQ(out.results[i].load(), std::int64_t{kBytes});
    CHECK(same(HostSpan(memory).subspan(i * kBytes, kBytes), i * kBytes));
  }
}

bool all_read(const Outcome& outcome) {
  return std::all_of(outcome.results.begin(), outcome.results.end(),
                     [](const auto& result) { return result == std::int64_t{kBytes}; });
}

bool can_ring() {
  std::unique_ptr<DirectReader> reader;
  const Status status = DirectReader::make(1, reader);
  if (!status.ok()) std::printf("skipped: %s\n", status.text.c_str());
  return status.ok();
}

}  // namespace

TEST(any_system_call_that_fails_ends_every_request_once) {
  if (!can_ring()) return;
  const ScratchFile file(kReads * kBytes);
  const UniqueFd fd(::open(file.path().c_str(), O_RDONLY | O_CLOEXEC));
  const std::size_t before = count_entries("/proc/self/fd");
  for (const int error : {EAGAIN, EIO, ENOMEM, EBUSY}) {
    for (std::size_t k = 0;; ++k) {
      const Faults one(fail_at(k, error));
      Outcome outcome;
      read_all(fd.get(), outcome);
      if (!outcome.made.ok()) CHECK_EQ(outcome.made.system_code, error);
      for (const auto& result : outcome.results) CHECK(result >= 0 || result == -ECANCELED);
      if (one.calls() <= k) break;
    }
  }
  CHECK_EQ(count_entries("/proc/self/fd"), before);
}

TEST(an_interrupted_wait_goes_on) {
  if (!can_ring()) return;
  const ScratchFile file(kReads * kBytes);
  const UniqueFd fd(::open(file.path().c_str(), O_RDONLY | O_CLOEXEC));
  for (std::size_t k = 0;; ++k) {
    std::size_t enters = 0;
    const Faults one([&, k](const Call& call) {
      return Verdict{call.name == "io_uring_enter" && enters++ == k ? EINTR : 0, {}, {}};
    });
    Outcome outcome;
    read_all(fd.get(), outcome);
    CHECK(outcome.made.ok());
    CHECK(all_read(outcome));
    if (enters <= k) break;
  }
}

TEST(a_ring_that_takes_nothing_hands_every_request_back_and_is_broken) {
  if (!can_ring()) return;
  const ScratchFile file(kReads * kBytes);
  const UniqueFd fd(::open(file.path().c_str(), O_RDONLY | O_CLOEXEC));
  for (const int error : {ENOMEM, EPERM, EAGAIN}) {
    const Faults broken(fail_all("io_uring_enter", error));
    Outcome outcome;
    read_all(fd.get(), outcome);
    for (const auto& result : outcome.results) CHECK_EQ(result.load(), -ECANCELED);
    CHECK(broken.calls() < 100);  // nobody goes on asking
  }
}

TEST(a_ring_that_breaks_on_the_way_still_ends) {
  if (!can_ring()) return;
  const ScratchFile file(kReads * kBytes);
  const UniqueFd fd(::open(file.path().c_str(), O_RDONLY | O_CLOEXEC));
  for (std::size_t k = 0; k < 8; ++k) {
    std::size_t enters = 0;
    const Faults rest(
        [&, k](const Call& call) { return Verdict{call.name == "io_uring_enter" && enters++ >= k ? EIO : 0, {}, {}}; });
    Outcome outcome;
    read_all(fd.get(), outcome);
  }
}

TEST(a_refused_ring_says_why) {
  const auto refusal = [](std::string_view call, int error) {
    const Faults refused(fail_all(call, error));
    std::unique_ptr<DirectReader> reader;
    const Status status = DirectReader::make(8, reader);
    CHECK(!reader);
    CHECK(status.code == Code::kReadFailed);
    CHECK_EQ(status.system_code, error);
    return status.text;
  };
  CHECK(refusal("io_uring_setup", EPERM).find("kernel.io_uring_disabled") != std::string::npos);
  CHECK(refusal("io_uring_setup", ENOSYS).find("built without it") != std::string::npos);
  CHECK(refusal("io_uring_setup", ENOMEM).find("ulimit -l") != std::string::npos);
  if (!can_ring()) return;
  CHECK(refusal("mmap", ENOMEM).find("mmap") != std::string::npos);
  CHECK(refusal("eventfd", EMFILE).find("eventfd") != std::string::npos);
}

TEST(memory_that_may_not_be_pinned_is_read_into_plainly) {
  if (!can_ring()) return;
  const ScratchFile file(kReads * kBytes);
  const UniqueFd fd(::open(file.path().c_str(), O_RDONLY | O_CLOEXEC));
  for (const int error : {ENOMEM, EPERM, EINVAL, EOPNOTSUPP}) {
    const Faults refused(fail_all("io_uring_register", error));
    Outcome outcome;
    read_all(fd.get(), outcome);
    CHECK(outcome.made.ok());
    CHECK(all_read(outcome));
  }
}
