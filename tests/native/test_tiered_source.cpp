// A source behind a tier: right bytes from wherever they are, each fetched once, and nobody waits for a file.
#include <array>
#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <latch>

#include "cache_fixture.hpp"
#include "check.hpp"
#include "io/tiered_source.hpp"

using namespace streamload;

namespace {

// Fetches the pattern on a thread of its own, or, while it is held, not before it is let go.
class Remote final : public Source {
 public:
  [[nodiscard]] const std::string& url() const noexcept override { return url_; }
  [[nodiscard]] Status read(std::uint64_t, std::size_t, HostSpan, ConstHostSpan&, Choice&) noexcept override {
    return Status::failure(Code::kInvalid, "not in this test");
  }
  [[nodiscard]] bool fetches() const noexcept override { return true; }
  void fetch(std::uint64_t offset, std::vector<HostSpan> targets, std::stop_token, FetchDone done) noexcept override {
    auto task = [this, offset, targets = std::move(targets), done = std::move(done)] { serve(offset, targets, done); };
    const std::lock_guard lock(mutex_);
    ++begun_;
    if (held_) {
      waiting_.push_back(std::move(task));
    } else {
      CHECK(threads_.run(std::move(task)));
    }
    changed_.notify_all();
  }

  void hold() {
    const std::lock_guard lock(mutex_);
    held_ = true;
  }
  void let_go() {
    const std::lock_guard lock(mutex_);
    held_ = false;
    for (auto& task : waiting_) CHECK(threads_.run(std::move(task)));
    waiting_.clear();
  }
  void wait_for_fetches(std::size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return begun_ >= count; });
  }

  std::atomic<std::uint64_t> served_bytes{0};
  std::atomic<bool> fails{false};

 private:
  void serve(std::uint64_t offset, const std::vector<HostSpan>& targets, const FetchDone& done) {
    FetchCounts counts;
    counts.requests = 1;
    if (fails) return done(Status::failure(Code::kReadFailed, "it fails", EIO), counts);
    for (const HostSpan target : targets) {
      for (std::size_t i = 0; i < target.size(); ++i) target[i] = pattern_at(offset + i);
      offset += target.size();
      served_bytes += target.size();
    }
    done({}, counts);
  }

  const std::string url_ = "test://object";
  std::mutex mutex_;  // guards the three below
  std::condition_variable changed_;
  bool held_ = false;
  std::size_t begun_ = 0;
  std::vector<TaskThreads::Task> waiting_;
  TaskThreads threads_{"remote", 2};
};

// A fetch into memory of its own, in two parts.
struct Arrival {
  std::uint64_t offset;
  std::vector<std::byte> bytes;
  Status status;
  FetchCounts counts;
  std::stop_source stop;
  std::latch arrived{1};

  Arrival(Source& source, std::uint64_t from, std::size_t nbytes) : offset(from), bytes(nbytes) {
    const HostSpan all(bytes);
    std::vector<HostSpan> targets = {all.first(nbytes / 3), all.subspan(nbytes / 3)};
    source.fetch(from, std::move(targets), stop.get_token(), [this](Status how, const FetchCounts& what) {
      status = std::move(how);
      counts = what;
      arrived.count_down();
    });
  }
  Arrival(const Arrival&) = delete;
  Arrival& operator=(const Arrival&) = delete;
  [[nodiscard]] bool is_right() {
    arrived.wait();
    return status.ok() && bytes == pattern(offset, bytes.size());
  }
};

std::size_t chunk_bytes(std::size_t i) { return chunk(i).end - chunk(i).start; }

struct Tiered {
  std::shared_ptr<Remote> remote = std::make_shared<Remote>();
  std::shared_ptr<TierThreads> threads;
  std::shared_ptr<CacheFile> file;
  std::shared_ptr<Source> source;

  explicit Tiered(const Folder& folder) : threads(std::make_shared<TierThreads>()) {
    CacheFile::Settings settings{folder.file("part"), {kBytes, {}}, folder.file("whole")};
    if (!CacheFile::open(settings, file).ok()) std::abort();
    if (!TieredSource::make(threads, remote, file, source).ok()) std::abort();
  }

  [[nodiscard]] FetchCounts load() const {
    std::vector<std::unique_ptr<Arrival>> all;
    for (std::size_t i = 0; i < kChunks; ++i) {
      all.push_back(std::make_unique<Arrival>(*source, i * kChunk, chunk_bytes(i)));
    }
    FetchCounts counts;
    for (const auto& one : all) {
      CHECK(one->is_right());
      counts.requests += one->counts.requests;
      counts.tier_bytes += one->counts.tier_bytes;
      counts.tier_written_bytes += one->counts.tier_written_bytes;
    }
    return counts;
  }
};

}  // namespace

TEST(what_was_fetched_is_read_from_the_file_the_next_time) {
  const Folder folder;
  {
    const Tiered first(folder);
    const FetchCounts counts = first.load();
    CHECK_EQ(counts.tier_bytes, 0U);
    CHECK_EQ(counts.tier_written_bytes, kBytes);
    CHECK_EQ(first.remote->served_bytes, kBytes);
    first.threads->close();  // writes what waits
    CHECK(first.file->complete());
    CHECK(first.file->published());
  }
  CHECK_EQ(std::filesystem::file_size(folder.file("whole")), kBytes);
  CHECK(!std::filesystem::exists(folder.file("part")));
}

TEST(parts_of_a_range_come_from_where_they_are) {
  const Folder folder;
  const Tiered tiered(folder);
  CHECK(Arrival(*tiered.source, 1000, 5000).is_right());
  CHECK(Arrival(*tiered.source, 9000, 100).is_right());
  tiered.remote->served_bytes = 0;
  Arrival all(*tiered.source, 0, 10'000);
  CHECK(all.is_right());
  CHECK_EQ(tiered.remote->served_bytes, 10'000 - 5100U);
  CHECK_EQ(all.counts.requests, 3U);
  CHECK_EQ(all.counts.tier_bytes, 5100U);
  Arrival again(*tiered.source, 10, 9000);
  CHECK(again.is_right());
  CHECK_EQ(again.counts.requests, 0U);
  CHECK(Arrival(*tiered.source, 5, 0).is_right());
}

TEST(several_users_fetch_each_range_once) {
  const Folder folder;
  const Tiered one(folder);
  const Tiered other(folder);
  std::jthread beside([&] { static_cast<void>(other.load()); });
  static_cast<void>(one.load());
  beside.join();
  CHECK_EQ(one.remote->served_bytes + other.remote->served_bytes, kBytes);
}

TEST(a_read_of_its_own_waits_for_the_bytes) {
  const Folder folder;
  const Tiered tiered(folder);
  std::vector<std::byte> buffer(kChunk);
  for (int round = 0; round < 2; ++round) {
    ConstHostSpan out;
    Choice choice;
    CHECK(tiered.source->read(77, 5000, buffer, out, choice).ok());
    CHECK(choice.route == Route::kRemote);
    CHECK(std::vector<std::byte>(out.begin(), out.end()) == pattern(77, 5000));
  }
}

TEST(a_file_that_was_cut_off_costs_no_byte) {
  const Folder folder;
  const Tiered tiered(folder);
  const auto more = std::make_unique<std::vector<std::byte>>(1);
  std::filesystem::resize_file(folder.file("part"), 0);  // cut off, and believed to be there in part
  const std::array<ConstHostSpan, 1> part = {ConstHostSpan(*more)};
  CHECK(tiered.file->put(kBytes - 1, part));
  std::filesystem::resize_file(folder.file("part"), 0);
  static_cast<void>(tiered.load());
}

TEST(a_fetch_that_fails_leaves_the_range_to_others) {
  const Folder folder;
  const Tiered one(folder);
  const Tiered other(folder);
  one.remote->fails = true;
  Arrival failed(*one.source, 0, kChunk);
  CHECK(!failed.is_right());
  CHECK_EQ(failed.status.system_code, EIO);
  CHECK(!failed.status.source.empty());
  CHECK(Arrival(*other.source, 0, kChunk).is_right());
  CHECK(Arrival(*one.source, 0, kChunk).is_right());  // from the file
}

TEST(what_another_fetches_is_waited_for_and_a_stop_ends_that) {
  const Folder folder;
  const Tiered one(folder);
  const Tiered other(folder);
  one.remote->hold();
  Arrival first(*one.source, 0, kChunk);
  one.remote->wait_for_fetches(1);
  Arrival second(*other.source, 0, kChunk);
  Arrival third(*other.source, 100, 100);
  third.stop.request_stop();
  third.arrived.wait();
  CHECK(third.status.code == Code::kCancelled);
  one.remote->let_go();
  CHECK(first.is_right());
  CHECK(second.is_right());
  CHECK_EQ(other.remote->served_bytes, 0U);
}

TEST(closing_ends_what_waits_for_others) {
  const Folder folder;
  const Tiered one(folder);
  const Tiered other(folder);
  one.remote->hold();
  Arrival first(*one.source, 0, kChunk);
  one.remote->wait_for_fetches(1);
  Arrival second(*other.source, 0, kChunk);
  other.threads->close();
  second.arrived.wait();
  CHECK(second.status.code == Code::kClosed);
  Arrival third(*other.source, 0, kChunk);
  third.arrived.wait();
  CHECK(third.status.code == Code::kClosed);
  one.remote->let_go();
  CHECK(first.is_right());
}

TEST(a_tier_before_a_tier_fills_both) {
  const Folder folder;
  const Folder memory;
  const Tiered drive(folder);
  std::shared_ptr<CacheFile> file;
  REQUIRE(CacheFile::open({memory.file("part"), {kBytes, {}}, memory.file("whole")}, file).ok());
  std::shared_ptr<Source> both;
  REQUIRE(TieredSource::make(drive.threads, drive.source, file, both).ok());
  for (std::size_t i = 0; i < kChunks; ++i) CHECK(Arrival(*both, i * kChunk, chunk_bytes(i)).is_right());
  CHECK_EQ(drive.remote->served_bytes, kBytes);
  CHECK(file->complete() && drive.file->complete());
}
