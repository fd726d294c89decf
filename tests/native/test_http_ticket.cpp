// Loads and rotations of remote objects: many reads under way with few reading threads, and every way to end early.
#include <latch>

#include "http_fixture.hpp"
#include "rotation_fixture.hpp"

using namespace streamload;

namespace {

// A server of the loads' file, a client of its own and the source.
struct RemoteFile {
  HttpServer server;
  std::shared_ptr<HttpClient> client;
  std::shared_ptr<Source> source;

  explicit RemoteFile(HttpServer::Script script, std::size_t connections = 0, std::uint64_t nbytes = kBytes,
                      const RetryPolicy& policy = hasty())
      : server(std::move(script)) {
    throw_if_error(HttpClient::make({.connections = connections}, client));
    throw_if_error(HttpSource::make(client, {"http://bucket/file", nbytes, kEtag, "", policy},
                                    {.url = server.url(), .headers = {}}, nullptr, source));
  }
};

HttpServer::Script good(std::uint64_t total = kBytes) {
  return [total](const ServedRequest& request) { return good_reply(request, total); };
}

// Half of each body, then nothing; counts `begun` down when a half was sent.
HttpServer::Script stalling(std::latch& begun) {
  return [&begun](const ServedRequest& request) {
    Reply reply = good_reply(request, kBytes);
    reply.cut = reply.body.size() / 2;
    reply.end = Reply::End::kStall;
    reply.at_cut = [&begun] {
      if (!begun.try_wait()) begun.count_down();
    };
    return reply;
  };
}

RetryPolicy patient() {
  RetryPolicy policy = hasty();
  policy.stall_seconds = policy.retry_seconds = 600;
  return policy;
}

HostDeviceOptions staged() {
  HostDeviceOptions options = poisoned();
  options.staged = true;
  return options;
}

}  // namespace

TEST(a_remote_file_arrives_in_place_and_through_staging) {
  if (!has_libcurl()) return;
  for (const bool in_place : {true, false}) {
    for (const std::size_t connections : {0U, 1U, 5U}) {
      const RemoteFile file(good(), connections);
      Load load(std::make_shared<HostDevice>(in_place ? HostDeviceOptions{} : staged()), 2, 3);
      REQUIRE(load.submit(file.source).ok());
      CHECK_EQ(load.wait_all().text, "");
      CHECK(load.holds(0, kBytes));
      const TicketStats stats = load.ticket->stats();
      CHECK_EQ(stats.bytes_by_route[static_cast<std::size_t>(Route::kRemote)], kBytes);
      CHECK_EQ(stats.in_place_bytes, in_place ? kBytes : 0);
      CHECK_EQ(stats.fetches.requests, kGroups * kReadsPerGroup);
      CHECK(stats.read_cpu_seconds > 0);
      for (const ChunkTrace& trace : load.ticket->trace()) CHECK(trace.choice.route == Route::kRemote);
      load.ticket->close();
      CHECK_EQ(load.pool->ring().leased(), 0U);
    }
  }
}

TEST(a_remote_file_reaches_a_gpu) {
  if (!has_libcurl()) return;
  on_standin([] {
    const RemoteFile file(good());
    Load load(cuda());
    REQUIRE(load.submit(file.source).ok());
    CHECK(load.wait_all().ok());
    CHECK(load.holds(0, kBytes));
  });
}

TEST(two_reading_threads_keep_many_reads_under_way) {
  if (!has_libcurl()) return;
  constexpr std::ptrdiff_t kWide = kGroups * kReadsPerGroup;
  std::latch all_asked(kWide);  // no answer before every read was asked for
  const RemoteFile file(
      [&](const ServedRequest& request) {
        all_asked.arrive_and_wait();
        return good_reply(request, kBytes);
      },
      kWide);
  Load load(std::make_shared<HostDevice>(HostDeviceOptions{}), 2);
  REQUIRE(load.submit(file.source).ok());
  CHECK(load.wait_all().ok());
  CHECK(load.holds(0, kBytes));
}

TEST(faults_on_the_way_are_counted) {
  if (!has_libcurl()) return;
  std::atomic<std::size_t> cut{0};
  const RemoteFile file([&](const ServedRequest& request) {
    Reply reply = good_reply(request, kBytes);
    if (request.number == 0) return status_reply(503);
    if (cut.fetch_add(1) == 0) {
      reply.cut = reply.body.size() / 2;
      reply.end = Reply::End::kClose;
    }
    return reply;
  });
  Load load(std::make_shared<HostDevice>(staged()));
  REQUIRE(load.submit(file.source).ok());
  CHECK_EQ(load.wait_all().text, "");
  CHECK(load.holds(0, kBytes));
  const FetchCounts counts = load.ticket->stats().fetches;
  CHECK_EQ(counts.throttled, 1U);
  CHECK_EQ(counts.retries, 2U);
  CHECK_EQ(counts.resumes, 1U);
}

TEST(a_read_that_fails_for_good_ends_the_load_and_stops_the_others) {
  if (!has_libcurl()) return;
  for (const bool in_place : {true, false}) {
    for (std::size_t k = 0; k < kGroups * kReadsPerGroup; k += 4) {
      const RemoteFile file(
          [k](const ServedRequest& request) {
            if (request.number == k) return status_reply(404);
            Reply reply = good_reply(request, kBytes);
            if (request.number > k) {
              reply.cut = reply.body.size() / 3;
              reply.end = Reply::End::kStall;  // only a stop ends these
            }
            return reply;
          },
          0, kBytes, patient());
      Load load(std::make_shared<HostDevice>(in_place ? HostDeviceOptions{} : staged()));
      REQUIRE(load.submit(file.source).ok());
      const Status status = load.wait_all();
      CHECK(status.code == Code::kNotFound);
      CHECK_EQ(status.source, "http://bucket/file");
      load.ticket->close();
      CHECK_EQ(load.pool->ring().leased(), 0U);
    }
  }
}

TEST(cancel_and_close_end_transfers_at_once) {
  if (!has_libcurl()) return;
  for (const bool in_place : {true, false}) {
    for (const bool cancels : {true, false}) {
      std::latch begun(3);
      const RemoteFile file(stalling(begun), 0, kBytes, patient());
      const auto device = std::make_shared<HostDevice>(in_place ? HostDeviceOptions{} : staged());
      {
        Load load(device);
        REQUIRE(load.submit(file.source).ok());
        begun.wait();
        if (cancels) load.ticket->cancel();
        if (cancels) CHECK(load.wait_all().code == Code::kCancelled);
        load.ticket->close();
        CHECK_EQ(load.pool->ring().leased(), 0U);
        load.ticket.reset();
      }  // its memory goes: a late write would show under ASan
      CHECK(file.source->has_room());
    }
  }
}

TEST(a_client_that_closes_fails_the_load) {
  if (!has_libcurl()) return;
  std::latch begun(3);
  const RemoteFile file(stalling(begun), 0, kBytes, patient());
  Load load(std::make_shared<HostDevice>(HostDeviceOptions{}));
  REQUIRE(load.submit(file.source).ok());
  begun.wait();
  file.client->close();
  CHECK(load.wait_all().code == Code::kClosed);
}

TEST(a_pool_that_closes_ends_the_load) {
  if (!has_libcurl()) return;
  std::latch begun(3);
  const RemoteFile file(stalling(begun), 0, kBytes, patient());
  Load load(std::make_shared<HostDevice>(staged()));
  REQUIRE(load.submit(file.source).ok());
  begun.wait();
  load.pool->close();
  CHECK(load.wait_all().code == Code::kCancelled);
}

TEST(a_load_goes_on_though_another_pool_s_load_has_all_connections) {
  if (!has_libcurl()) return;
  std::latch first_asked(1);
  std::promise<void> gate;
  std::shared_future<void> opened = gate.get_future().share();
  const RemoteFile file(
      [&](const ServedRequest& request) {
        if (request.number == 0) {
          first_asked.count_down();
          opened.wait();
        }
        return good_reply(request, kBytes);
      },
      1);
  Load first(std::make_shared<HostDevice>(HostDeviceOptions{}));
  Load second(std::make_shared<HostDevice>(HostDeviceOptions{}));
  REQUIRE(first.submit(file.source).ok());
  first_asked.wait();
  REQUIRE(second.submit(file.source).ok());
  gate.set_value();
  CHECK(first.wait_all().ok());
  CHECK(second.wait_all().ok());
  CHECK(first.holds(0, kBytes));
  CHECK(second.holds(0, kBytes));
}

TEST(a_promoted_group_is_fetched_next) {
  if (!has_libcurl()) return;
  std::latch begun(1);
  std::promise<void> gate;
  std::shared_future<void> opened = gate.get_future().share();
  const RemoteFile file(
      [&](const ServedRequest& request) {
        if (request.number == 0) {
          begun.count_down();
          opened.wait();
        }
        return good_reply(request, kBytes);
      },
      1);
  Load load(std::make_shared<HostDevice>(HostDeviceOptions{}), 1);
  REQUIRE(load.submit(file.source).ok());
  begun.wait();
  load.ticket->promote(kGroups - 1);
  gate.set_value();
  CHECK(load.wait_all().ok());
  CHECK_EQ(file.server.log()[1].first, (kGroups - 1) * kGroupBytes);
}

TEST(a_paused_load_fetches_nothing_more_until_it_goes_on) {
  if (!has_libcurl()) return;
  const RemoteFile file(good(), 1);
  const auto plan = std::make_shared<std::vector<std::byte>>(kBytes);
  const auto device = std::make_shared<HostDevice>(HostDeviceOptions{});
  const auto pool = std::make_shared<ReadPool>(ReadPoolOptions{kChunk, 4 * kChunk, 1});
  const auto steps = std::make_shared<const Plan>(plan_to(reinterpret_cast<std::uintptr_t>(plan->data())));
  std::shared_ptr<Ticket> ticket;
  REQUIRE(Ticket::start(device, pool, steps, {file.source}, {}, ticket).ok());
  ticket->pause(true);
  ticket->pause(false);
  bool ready = false;
  CHECK(ticket->wait_all(kPatience, ready).ok());
  CHECK(ready);
  CHECK(*plan == pattern(0, kBytes));
  ticket->close();
}

TEST(units_of_a_rotation_are_fetched_pass_after_pass) {
  if (!has_libcurl()) return;
  constexpr std::uint32_t kUnits = 6;
  constexpr std::uint64_t kTotal = kUnits * kUnitBytes;
  for (const bool in_place : {true, false}) {
    const RemoteFile file(good(kTotal), 0, kTotal);
    const auto pool = std::make_shared<ReadPool>(ReadPoolOptions{kChunk, 4 * kChunk, 2});
    Turn turn(std::make_shared<HostDevice>(in_place ? poisoned() : staged()), pool,
              {.slots = 3, .slot_of = spread(kUnits, 3), .order = straight(kUnits), .source = file.source});
    REQUIRE(turn.started.ok());
    for (int pass = 0; pass < 3; ++pass) {
      turn.rotation->begin_pass();
      for (std::uint32_t unit = 0; unit < kUnits; ++unit) {
        Rotation::Want want;
        REQUIRE(turn.rotation->want(unit, want).ok());
        bool ready = false;
        CHECK_EQ(turn.rotation->acquire(want, {}, kPatience, ready).text, "");
        REQUIRE(ready);
        CHECK(std::memcmp(turn.bytes(unit), unit_bytes().data() + unit * kUnitBytes, kUnitBytes) == 0);
        CHECK(turn.rotation->release(unit, {}).ok());
      }
    }
  }
}

TEST(a_rotation_closes_in_the_middle_of_a_fetch) {
  if (!has_libcurl()) return;
  constexpr std::uint64_t kTotal = 4 * kUnitBytes;
  std::latch begun(1);
  const RemoteFile file(
      [&](const ServedRequest& request) {
        Reply reply = good_reply(request, kTotal);
        reply.cut = 100;
        reply.end = Reply::End::kStall;
        if (request.number == 0) reply.at_cut = [&] { begun.count_down(); };
        return reply;
      },
      0, kTotal, patient());
  const auto pool = std::make_shared<ReadPool>(ReadPoolOptions{kChunk, 4 * kChunk, 2});
  Turn turn(std::make_shared<HostDevice>(poisoned()), pool,
            {.slots = 2, .slot_of = spread(4, 2), .order = straight(4), .source = file.source});
  REQUIRE(turn.started.ok());
  begun.wait();
  turn.rotation->close();
}
