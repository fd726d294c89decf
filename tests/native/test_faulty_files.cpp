// Where system call k of a file's reads fails, for every k: the right bytes or a Status, and no descriptor left.
#include <sys/uio.h>

#include <cerrno>

#include "check.hpp"
#include "faulty_calls.hpp"
#include "io/mapped_file.hpp"
#include "read_fixture.hpp"

using namespace streamload;
using faulty::Call;
using faulty::fail_at;
using faulty::Faults;
using faulty::Verdict;

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kFileBytes = 64 * kPage + 1234;
constexpr std::uint64_t kOffset = 3 * kPage + 77;
constexpr std::size_t kBytes = 5 * kPage;

// One read from an open to a retire; what it says when it fails, and the right bytes when it does not.
Status read_staged(const ScratchFile& file, const FileStamp& stamp, std::optional<bool> direct) {
  std::shared_ptr<Source> source;
  if (Status status = FileSource::open(file.path(), stamp, direct, source); !status.ok()) return status;
  Room room;
  ConstHostSpan out;
  if (Status status = choose_and_read(*source, kOffset, kBytes, room.span(), out); !status.ok()) return status;
  CHECK_EQ(out.size(), kBytes);
  CHECK(same(out, kOffset));
  Status status = source->check_unchanged();
  source->retire();
  return status;
}

Status read_scattered(const ScratchFile& file, const FileStamp& stamp) {
  std::shared_ptr<Source> source;
  if (Status status = FileSource::open(file.path(), stamp, false, source); !status.ok()) return status;
  std::vector<std::byte> first(100);
  std::vector<std::byte> second(kBytes - 101);
  std::vector<std::byte> third(1);
  const std::array<HostSpan, 3> targets = {HostSpan(first), HostSpan(second), HostSpan(third)};
  if (Status status = source->read_scattered(kOffset, targets); !status.ok()) return status;
  CHECK(same(first, kOffset));
  CHECK(same(second, kOffset + 100));
  CHECK(same(third, kOffset + kBytes - 1));
  return source->check_unchanged();
}

// One direct read into place, with the blocks it begins and ends in beside it; again as the engine does where that
// comes to nothing.
Status read_in_parts(const ScratchFile& file, const FileStamp& stamp) {
  std::shared_ptr<Source> source;
  if (Status status = FileSource::open(file.path(), stamp, true, source); !status.ok()) return status;
  Choice choice;
  if (Status status = source->choose(kOffset, kBytes, choice); !status.ok()) return status;
  constexpr std::size_t kLead = kOffset % kPage;
  constexpr std::size_t kMiddle = kBytes - kPage;
  Room room;
  Room edges;
  const std::vector<iovec> parts = {{edges.bytes, kPage}, {room.bytes, kMiddle}, {edges.bytes + kPage, kPage}};
  DirectRange range;
  bool again = !source->prepare_scattered(kOffset - kLead, kLead, parts, range);
  ConstHostSpan out;
  if (!again) {
    const std::int64_t result = source->read_prepared(range);
    if (Status status = source->finish_direct(range, kOffset, kBytes, result, out, again); !status.ok()) return status;
  }
  if (again) {
    choice.route = Route::kBuffered;
    if (Status status = source->read(kOffset, kBytes, room.span(), out, choice); !status.ok()) return status;
    CHECK(same(out, kOffset));
  } else {
    CHECK(same(ConstHostSpan(edges.bytes + kLead, kPage - kLead), kOffset));
    CHECK(same(ConstHostSpan(room.bytes, kMiddle), kOffset - kLead + kPage));
    CHECK(same(ConstHostSpan(edges.bytes + kPage, kLead), kOffset + kBytes - kLead));
  }
  return source->check_unchanged();
}

Status map(const ScratchFile& file, const FileStamp& stamp) {
  std::shared_ptr<MappedFile> mapped;
  if (Status status = MappedFile::open(file.path(), stamp, mapped); !status.ok()) return status;
  CHECK_EQ(mapped->bytes().size(), kFileBytes);
  CHECK(same(mapped->bytes(), 0));
  return {};
}

// Every way to read a file, on a cold cache.
void for_each_way(const std::function<void(const std::function<Status()>&)>& visit) {
  const ScratchFile file(kFileBytes);
  const FileStamp stamp = file.stamp();
  for (const std::optional<bool> direct : {std::optional<bool>(), std::optional(false), std::optional(true)}) {
    visit([&] {
      file.drop_from_page_cache();
      return read_staged(file, stamp, direct);
    });
  }
  visit([&] { return read_scattered(file, stamp); });
  visit([&] { return read_in_parts(file, stamp); });
  visit([&] { return map(file, stamp); });
}

bool told(const Status& status) { return status.ok() || (!status.text.empty() && !status.source.empty()); }

}  // namespace

TEST(any_system_call_that_fails_ends_in_right_bytes_or_a_status) {
  for_each_way([](const std::function<Status()>& attempt) {
    const std::size_t before = count_entries("/proc/self/fd");
    std::size_t calls = 0;
    {
      const Faults none([](const Call&) { return Verdict{}; });
      CHECK(attempt().ok());
      calls = none.calls();
    }
    CHECK(calls >= 3);
    for (const int error : {EAGAIN, EIO, ENOMEM, EINVAL, EMFILE}) {
      for (std::size_t k = 0; k < calls; ++k) {
        const Faults one(fail_at(k, error));
        const Status status = attempt();
        CHECK(told(status));
        CHECK(status.ok() || status.system_code == error);
        CHECK(one.calls() > k);
      }
    }
    CHECK_EQ(count_entries("/proc/self/fd"), before);
  });
}

TEST(an_interrupted_system_call_is_made_again) {
  for_each_way([](const std::function<Status()>& attempt) {
    std::string_view interrupted;
    for (std::size_t k = 0;; ++k) {
      interrupted = {};
      const Faults one([&, k](const Call& call) {
        if (call.index != k) return Verdict{};
        interrupted = call.name;
        return Verdict{call.name == "mmap" ? 0 : EINTR, {}, {}};  // mmap(2) is not interrupted
      });
      CHECK(attempt().ok());
      if (interrupted.empty()) break;
    }
  });
}

TEST(from_any_system_call_on_nothing_works_and_that_is_told) {
  for_each_way([](const std::function<Status()>& attempt) {
    const std::size_t before = count_entries("/proc/self/fd");
    for (std::size_t k = 0;; ++k) {
      const Faults rest([k](const Call& call) { return Verdict{call.index >= k ? EIO : 0, {}, {}}; });
      CHECK(told(attempt()));
      if (rest.calls() <= k) break;
    }
    CHECK_EQ(count_entries("/proc/self/fd"), before);
  });
}

TEST(a_read_that_comes_in_pieces_is_put_together) {
  for_each_way([](const std::function<Status()>& attempt) {
    std::vector<std::size_t> ends = {1, 77, 511, 512, kPage - 77, kPage + 1, 3 * kPage + 5, kBytes - 1, kBytes};
    for (std::size_t page = 1; page <= 6; ++page) ends.push_back(page * kPage);
    for (const std::size_t most : ends) {
      // Once, then twice, then every time.
      for (const std::size_t times : {std::size_t{1}, std::size_t{2}, kBytes}) {
        if (most < 511 && times > 2) continue;
        std::size_t cut = 0;
        const Faults shorts([&](const Call& call) {
          const bool read = call.name == "pread" || call.name == "preadv";
          return read && cut++ < times ? Verdict{0, most, {}} : Verdict{};
        });
        CHECK(attempt().ok());
      }
    }
  });
}

TEST(a_read_that_gives_nothing_is_the_end_of_the_file) {
  const ScratchFile file(kFileBytes);
  for (const std::optional<bool> direct : {std::optional(false), std::optional(true)}) {
    const Faults empty([](const Call& call) {
      const bool read = call.name == "pread" || call.name == "preadv";
      return read ? Verdict{0, std::size_t{0}, {}} : Verdict{};
    });
    CHECK(read_staged(file, file.stamp(), direct).code == Code::kShortRead);
  }
}

TEST(what_came_of_an_asynchronous_read_is_judged) {
  const ScratchFile file(kFileBytes);
  const auto source = open_file(file, true);
  Room room;
  DirectRange range;
  if (!source->prepare_direct(kOffset, kBytes, room.span(), range)) {
    std::printf("skipped: no direct route here\n");
    return;
  }
  ConstHostSpan out;
  bool again = false;
  // Short at every page boundary and at odd places: everything that was wanted, or all of it again.
  for (std::size_t got = 0; got <= range.target.size(); got += got % kPage == 0 ? 77 : kPage - 77) {
    CHECK(source->finish_direct(range, kOffset, kBytes, static_cast<std::int64_t>(got), out, again).ok());
    CHECK_EQ(again, got < range.lead + kBytes);
    if (!again) CHECK(out.data() == range.target.data() + range.lead && out.size() == kBytes);
  }
  for (const int error : {EAGAIN, EINTR, ECANCELED}) {
    CHECK(source->finish_direct(range, kOffset, kBytes, -error, out, again).ok());
    CHECK(again);
    CHECK(source->direct_grid() > 0);
  }
  for (const int error : {EIO, ENOMEM, EFAULT, EBADF}) {
    const Status status = source->finish_direct(range, kOffset, kBytes, -error, out, again);
    CHECK(status.code == Code::kReadFailed);
    CHECK_EQ(status.system_code, error);
    CHECK_EQ(status.offset, kOffset);
    CHECK_EQ(status.nbytes, kBytes);
    CHECK_EQ(status.source, file.path());
  }
  CHECK(source->finish_direct(range, kOffset, kBytes, -EINVAL, out, again).ok());
  CHECK(again);
  CHECK_EQ(source->direct_grid(), 0U);  // from now on buffered
  CHECK(!source->prepare_direct(kOffset, kBytes, room.span(), range));
}
