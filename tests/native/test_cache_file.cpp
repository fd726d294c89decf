// A cache file: what was put is there for everybody, and nothing else is believed.
#include <sys/resource.h>
#include <sys/stat.h>

#include <cerrno>
#include <csignal>

#include "cache_fixture.hpp"
#include "check.hpp"
#include "io/cache_file.hpp"

using namespace streamload;

TEST(what_is_put_is_there_for_everybody) {
  const Folder folder;
  const auto one = open(folder.file());
  const auto other = open(folder.file());
  CHECK(!other->covers(0, 1));
  CHECK(put(*one, {100, 5000}));
  CHECK(holds(*one, {100, 5000}));
  CHECK(holds(*other, {200, 4000}));
  CHECK(!other->covers(99, 2));
  CHECK(!other->covers(4999, 2));
  CHECK_EQ(other->covered_bytes(), 4900U);
  CHECK(holds(*open(folder.file()), {100, 5000}));
}

TEST(a_range_that_is_there_is_not_written_again) {
  const Folder folder;
  const auto one = open(folder.file());
  const auto other = open(folder.file());
  CHECK(put(*one, chunk(1)));
  const std::vector<std::byte> wrong(3 * kChunk);
  const std::array<ConstHostSpan, 1> parts = {ConstHostSpan(wrong)};
  CHECK(other->put(0, parts));
  CHECK(holds(*other, chunk(1)));
  CHECK_EQ(other->covered_bytes(), 3 * kChunk);
}

TEST(files_are_private_to_the_user) {
  const Folder folder;
  const auto file = open(folder.file());
  for (const std::string& path : {folder.file(), CacheFile::journal_path(folder.file())}) {
    struct stat facts{};
    CHECK_EQ(::stat(path.c_str(), &facts), 0);
    CHECK_EQ(facts.st_mode & 0777, 0600U);
  }
}

TEST(another_version_of_the_object_starts_from_nothing) {
  const Folder folder;
  const auto old = open(folder.file(), 1);
  fill(*old);
  const auto fresh = open(folder.file(), 2);
  CHECK_EQ(fresh->covered_bytes(), 0U);
  CHECK(put(*fresh, chunk(0)));
  CHECK(holds(*old, {0, kBytes}));  // whoever has it open goes on
  CHECK(!old->publish(folder.file("target"), true).ok());
  CHECK(!std::filesystem::exists(folder.file("target")));
}

TEST(a_torn_record_costs_its_own_range_only) {
  const Folder folder;
  const auto one = open(folder.file());
  CHECK(put(*one, chunk(0)));
  append(CacheFile::journal_path(folder.file()), "SLrange\n and not much more");
  const auto other = open(folder.file());
  CHECK(put(*other, chunk(1)));
  CHECK(put(*one, chunk(2)));
  const auto third = open(folder.file());
  CHECK(holds(*third, chunk(0)) && holds(*third, chunk(1)) && holds(*third, chunk(2)));
  CHECK(holds(*one, chunk(1)) && holds(*other, chunk(2)));
  append(CacheFile::journal_path(folder.file()), std::string(100'000, 'x'));
  CHECK(put(*one, chunk(3)));
  CHECK(holds(*third, chunk(3)));
}

TEST(a_journal_of_rubbish_is_not_believed) {
  for (const std::string& text : {std::string(1, 'x'), std::string(64, '\0'), std::string(6400, 'y')}) {
    const Folder folder;
    append(folder.file(), std::string(kBytes, 'z'));
    append(CacheFile::journal_path(folder.file()), text);
    CHECK_EQ(open(folder.file())->covered_bytes(), 0U);
  }
  const Folder folder;
  append(folder.file(), std::string(kBytes, 'z'));  // data that nothing is known of
  const auto file = open(folder.file());
  CHECK_EQ(file->covered_bytes(), 0U);
  fill(*file);
  CHECK(file->publish(folder.file("target"), false).ok());
  CHECK(is_the_object(folder.file("target")));
}

TEST(a_journal_without_its_data_is_not_believed) {
  const Folder folder;
  fill(*open(folder.file()));
  std::filesystem::remove(folder.file());
  CHECK_EQ(open(folder.file())->covered_bytes(), 0U);
  fill(*open(folder.file()));
  std::filesystem::resize_file(folder.file(), kBytes / 2);
  CHECK_EQ(open(folder.file())->covered_bytes(), 0U);
}

TEST(after_another_boot_only_bytes_that_match_their_checksum_are_believed) {
  const Folder folder;
  fill(*open(folder.file(), 1, 1));
  overwrite(folder.file(), 3 * kChunk + 7);
  overwrite(folder.file(), 9 * kChunk + 7);
  const auto file = open(folder.file(), 1, 2);
  CHECK_EQ(file->covered_bytes(), kBytes - 2 * kChunk);
  CHECK(!file->covers(3 * kChunk, 1) && !file->covers(9 * kChunk, kChunk));
  CHECK(put(*file, chunk(3)));
  // What was checked once is written down, and so is what replaces the rest.
  const auto again = open(folder.file(), 1, 2);
  CHECK_EQ(again->covered_bytes(), kBytes - kChunk);
  CHECK(holds(*again, chunk(3)));
  CHECK(put(*again, chunk(9)));
  CHECK(open(folder.file(), 1, 3)->complete());
}

TEST(a_boot_that_is_not_known_is_never_this_one) {
  const Folder folder;
  fill(*open(folder.file(), 1, 0));
  overwrite(folder.file(), 7);
  CHECK_EQ(open(folder.file(), 1, 0)->covered_bytes(), kBytes - kChunk);
}

TEST(a_range_is_claimed_by_one_at_a_time) {
  const Folder folder;
  const auto one = open(folder.file());
  const auto other = open(folder.file());
  CacheClaim claim;
  CHECK(one->try_claim(0, kChunk, claim) == ClaimOutcome::kClaimed);
  CacheClaim none;
  CHECK(one->try_claim(kChunk - 1, 2, none) == ClaimOutcome::kBusy);
  CHECK(other->try_claim(kChunk - 1, 2, none) == ClaimOutcome::kBusy);
  CacheClaim next;
  CHECK(other->try_claim(kChunk, kChunk, next) == ClaimOutcome::kClaimed);
  CHECK(one->try_claim(kChunk, 1, none) == ClaimOutcome::kBusy);
  claim.release();
  CHECK(other->try_claim(0, kChunk, claim) == ClaimOutcome::kClaimed);
  CHECK(put(*other, chunk(0)));
  claim.release();
  CHECK(one->try_claim(0, kChunk, claim) == ClaimOutcome::kCovered);
  CHECK(!none && !claim);
}

TEST(published_is_the_whole_object_and_nothing_beside_it) {
  const Folder folder;
  const std::string target = folder.file("target");
  const auto one = open(folder.file());
  const auto other = open(folder.file());
  CHECK(one->publish(target, false).code == Code::kMisused);
  fill(*one);
  CHECK(one->publish(target, false).ok());
  CHECK(other->publish(target, false).ok());  // as well
  CHECK(is_the_object(target));
  CHECK_EQ(folder.entries(), 1U);
  CHECK(holds(*other, {0, kBytes}));
  CHECK(holds(*one, {0, kBytes}));
}

TEST(a_file_that_knows_where_to_goes_there_by_itself) {
  const Folder folder;
  CacheFile::Settings chosen = settings(folder.file());
  chosen.publish_path = folder.file("target");
  std::shared_ptr<CacheFile> file;
  REQUIRE(CacheFile::open(chosen, file).ok());
  CHECK(!file->published());
  fill(*file);
  CHECK(file->can_settle());
  file->settle();
  CHECK(file->published() && !file->can_settle());
  CHECK(is_the_object(folder.file("target")));
  CHECK_EQ(folder.entries(), 1U);
}

TEST(what_is_published_already_stays_unless_it_is_to_be_replaced) {
  const Folder folder;
  const std::string target = folder.file("target");
  append(target, "older");
  const std::uint64_t inode = stamp_of(target).inode;
  const auto one = open(folder.file());
  fill(*one);
  CHECK(one->publish(target, false).ok());
  CHECK_EQ(stamp_of(target).inode, inode);
  CHECK_EQ(folder.entries(), 1U);
  const auto other = open(folder.file());
  fill(*other);
  CHECK(other->publish(target, true).ok());
  CHECK(is_the_object(target));
  CHECK_EQ(folder.entries(), 1U);
}

TEST(only_files_that_nobody_has_open_are_removed) {
  const Folder folder;
  auto one = open(folder.file());
  auto other = open(folder.file());
  bool removed = true;
  CHECK(CacheFile::remove(folder.file(), removed).ok());
  CHECK(!removed);
  one.reset();
  CHECK(CacheFile::remove(folder.file(), removed).ok());
  CHECK(!removed);
  other.reset();
  CHECK(CacheFile::remove(folder.file(), removed).ok());
  CHECK(removed);
  CHECK(CacheFile::remove(folder.file(), removed).ok());
  CHECK_EQ(folder.entries(), 0U);
}

TEST(an_object_of_no_bytes_is_complete) {
  const Folder folder;
  CacheFile::Settings empty = settings(folder.file());
  empty.object.nbytes = 0;
  std::shared_ptr<CacheFile> file;
  REQUIRE(CacheFile::open(empty, file).ok());
  CHECK(file->complete());
  CHECK(file->read(0, {}).ok());
  CHECK(file->publish(folder.file("target"), false).ok());
  CHECK_EQ(std::filesystem::file_size(folder.file("target")), 0U);
}

TEST(a_file_that_cannot_grow_is_switched_off) {
  const Folder folder;
  const auto file = open(folder.file());
  CHECK(put(*file, chunk(0)));
  struct rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  const struct rlimit low{2 * kChunk, before.rlim_max};
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &low) == 0);
  CHECK(put(*file, chunk(1)));
  CHECK_EQ(file->broken(), 0);
  CHECK(!put(*file, chunk(2)));
  CHECK_EQ(file->broken(), EFBIG);
  std::shared_ptr<CacheFile> none;
  const Status status = CacheFile::open(settings(folder.file("other")), none);
  CHECK_EQ(status.system_code, EFBIG);
  CHECK(!none);
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  std::signal(SIGXFSZ, handler);
  CHECK(!put(*file, chunk(3)));  // for good
  CHECK(holds(*file, {0, 2 * kChunk}));
  CHECK_EQ(file->covered_bytes(), 2 * kChunk);
  CHECK_EQ(folder.entries(), 2U);
}

TEST(a_place_that_cannot_be_written_is_told) {
  std::shared_ptr<CacheFile> none;
  const Status status = CacheFile::open(settings("/nonexistent/folder/object"), none);
  CHECK_EQ(status.system_code, ENOENT);
  CHECK(!status.text.empty() && !status.source.empty());
}
