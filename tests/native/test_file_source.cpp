#include <algorithm>

#include "check.hpp"
#include "io/callback_source.hpp"
#include "io/mapped_file.hpp"
#include "read_fixture.hpp"

using namespace streamload;

namespace {

constexpr std::size_t kFileBytes = (1 << 20) + 1234;

// As open_file, with its descriptors open: what happens to the file from now on happens under the load.
std::shared_ptr<Source> open_and_read(const ScratchFile& file, std::optional<bool> direct) {
  auto source = open_file(file, direct);
  Room room;
  ConstHostSpan out;
  throw_if_error(choose_and_read(*source, 0, 1, room.span(), out));
  return source;
}

}  // namespace

TEST(both_routes_read_every_offset_and_length) {
  const ScratchFile file(kFileBytes);
  Room room;
  for (const bool direct : {false, true}) {
    const auto source = open_file(file, direct);
    for (const std::uint64_t offset : {0UL, 1UL, 4095UL, 4096UL, 70001UL, kFileBytes - 1}) {
      for (const std::size_t nbytes : {1UL, 511UL, 4096UL, 100000UL}) {
        const std::size_t count = std::min<std::size_t>(nbytes, kFileBytes - offset);
        ConstHostSpan out;
        Choice choice;
        CHECK(choose_and_read(*source, offset, count, room.span(), out, choice).ok());
        CHECK_EQ(out.size(), count);
        CHECK(same(out, offset));
      }
    }
  }
}

TEST(a_cold_file_is_read_around_the_page_cache_and_a_warm_one_through_it) {
  const ScratchFile file(kFileBytes);
  const auto source = open_file(file, std::nullopt);
  Room room;
  ConstHostSpan out;
  Choice choice;
  CHECK(choose_and_read(*source, 0, 65536, room.span(), out, choice).ok());
  CHECK(choice.route == Route::kBuffered);  // just written: cached
  file.drop_from_page_cache();
  CHECK(choose_and_read(*source, 0, 65536, room.span(), out, choice).ok());
  CHECK(same(out, 0));
  // A file system in memory, or one without O_DIRECT, has no second route; cachestat(2) may be refused.
  if (choice.route != Route::kDirect) std::printf("note: no direct route here\n");
}

TEST(a_direct_read_that_does_not_fit_the_buffer_is_buffered) {
  const ScratchFile file(kFileBytes);
  const auto source = open_file(file, true);
  Room room;
  ConstHostSpan out;
  Choice choice;
  CHECK(choose_and_read(*source, 4000, 8192, room.span().first(8192), out, choice).ok());
  CHECK(choice.route == Route::kBuffered);
  CHECK(same(out, 4000));
}

TEST(a_scattered_read_fills_its_targets_in_order) {
  const ScratchFile file(kFileBytes);
  const auto source = open_file(file, false);
  std::vector<std::byte> first(1000);
  std::vector<std::byte> second(1);
  std::vector<std::byte> third(50000);
  const std::array<HostSpan, 3> targets = {HostSpan(first), HostSpan(second), HostSpan(third)};
  CHECK(source->can_scatter());
  CHECK(source->read_scattered(77, targets).ok());
  CHECK(same(first, 77));
  CHECK(same(second, 1077));
  CHECK(same(third, 1078));
}

TEST(a_truncated_file_is_a_short_read_with_its_place) {
  for (const bool direct : {false, true}) {
    const ScratchFile file(kFileBytes);
    const auto source = open_and_read(file, direct);
    file.truncate(5000);
    Room room;
    ConstHostSpan out;
    Choice choice;
    const Status status = choose_and_read(*source, 4096, 8192, room.span(), out, choice);
    CHECK(status.code == Code::kShortRead);
    CHECK_EQ(status.offset, 4096U);
    CHECK_EQ(status.nbytes, 8192U);
    CHECK_EQ(status.source, file.path());
    CHECK(status.text.find("got 904 of 8192 bytes at offset 4096") != std::string::npos);
    CHECK(source->check_unchanged().code == Code::kChanged);
  }
}

TEST(a_file_truncated_before_the_wanted_bytes_got_none_of_them) {
  const ScratchFile file(kFileBytes);
  const auto source = open_and_read(file, true);
  file.truncate(100);
  Room room;
  ConstHostSpan out;
  Choice choice;
  const Status status = choose_and_read(*source, 6000, 1000, room.span(), out, choice);
  CHECK(status.code == Code::kShortRead);
  CHECK(status.text.find("got 0 of 1000") != std::string::npos);
}

TEST(a_replaced_file_is_noticed_and_a_deleted_one_still_reads) {
  const ScratchFile file(kFileBytes);
  const FileStamp stamp = file.stamp();
  const auto source = open_and_read(file, false);
  CHECK(source->check_unchanged().ok());
  const ScratchFile other(kFileBytes);
  const std::string spare = other.path() + ".spare";
  CHECK(::link(other.path().c_str(), spare.c_str()) == 0);
  CHECK(::rename(spare.c_str(), file.path().c_str()) == 0);
  const Status status = source->check_unchanged();
  CHECK(status.code == Code::kChanged);
  CHECK(status.text.find("replaced by another file") != std::string::npos);
  std::shared_ptr<Source> again;
  CHECK(FileSource::open(file.path(), stamp, std::nullopt, again).code == Code::kChanged);
  CHECK(::unlink(file.path().c_str()) == 0);
  CHECK(source->check_unchanged().ok());
}

TEST(a_missing_file_and_a_directory_say_so) {
  std::shared_ptr<Source> source;
  CHECK(FileSource::open("/nowhere/at/all", {}, std::nullopt, source).code == Code::kNotFound);
  CHECK(FileSource::open("/", {}, std::nullopt, source).code == Code::kChanged);  // no directory has this stamp
}

TEST(a_retired_file_holds_no_descriptor_and_opens_again) {
  const ScratchFile file(kFileBytes);
  const std::size_t before = count_entries("/proc/self/fd");
  const auto source = open_file(file, std::nullopt);
  CHECK_EQ(count_entries("/proc/self/fd"), before);  // none until it is read
  Room room;
  ConstHostSpan out;
  Choice choice;
  for (int i = 0; i < 2; ++i) {
    CHECK(choose_and_read(*source, 0, 4096, room.span(), out, choice).ok());
    CHECK(count_entries("/proc/self/fd") > before);
    source->retire();
    CHECK_EQ(count_entries("/proc/self/fd"), before);
  }
  file.truncate(10);
  CHECK(choose_and_read(*source, 0, 4096, room.span(), out, choice).code == Code::kChanged);
}

TEST(a_mapped_file_is_private) {
  const ScratchFile file(kFileBytes);
  std::shared_ptr<MappedFile> mapped;
  CHECK(MappedFile::open(file.path(), file.stamp(), mapped).ok());
  CHECK(same(mapped->bytes(), 0));
  mapped->bytes()[0] = std::byte{0xEE};
  Room room;
  ConstHostSpan out;
  Choice choice;
  CHECK(choose_and_read(*open_file(file, false), 0, 16, room.span(), out, choice).ok());
  CHECK(same(out, 0));
}

TEST(a_callback_source_is_asked_until_the_read_is_full) {
  int calls = 0;
  CallbackSource source("memory:", [&](std::uint64_t offset, HostSpan buffer, std::size_t& got) {
    ++calls;
    got = std::min<std::size_t>(buffer.size(), 1000);
    const auto bytes = pattern(offset, got);
    std::copy(bytes.begin(), bytes.end(), buffer.begin());
    return Status{};
  });
  Room room;
  ConstHostSpan out;
  Choice choice;
  CHECK(source.read(5, 2500, room.span(), out, choice).ok());
  CHECK_EQ(calls, 3);
  CHECK(same(out, 5));
}

TEST(a_callback_that_ends_early_overclaims_or_fails_is_named) {
  Room room;
  ConstHostSpan out;
  Choice choice;
  CallbackSource ends("x", [](std::uint64_t, HostSpan, std::size_t& got) {
    got = 0;
    return Status{};
  });
  Status status = ends.read(10, 20, room.span(), out, choice);
  CHECK(status.code == Code::kShortRead);
  CHECK_EQ(status.offset, 10U);
  CallbackSource lies("x", [](std::uint64_t, HostSpan buffer, std::size_t& got) {
    got = buffer.size() + 1;
    return Status{};
  });
  CHECK(lies.read(10, 20, room.span(), out, choice).code == Code::kCallbackFailed);
  CallbackSource fails(
      "x", [](std::uint64_t, HostSpan, std::size_t&) { return Status::failure(Code::kCallbackFailed, "no"); });
  CHECK_EQ(fails.read(10, 20, room.span(), out, choice).source, "x");
}
