// The client itself: connections, second requests, redirects, renewals, and how everything ends.
#include <latch>

#include "http_fixture.hpp"

using namespace streamload;

namespace {

constexpr std::size_t kRange = 100'000;

HttpServer::Script good() {
  return [](const ServedRequest& request) { return good_reply(request); };
}

// Fetches that are not waited for.
struct Burst {
  std::vector<std::vector<std::byte>> memory;
  std::vector<Status> outcomes;
  std::atomic<std::size_t> ended{0};
  std::vector<std::promise<void>> done;

  Burst(Source& source, std::size_t count, const std::stop_token& stop = {})
      : memory(count), outcomes(count), done(count) {
    for (std::size_t i = 0; i < count; ++i) {
      memory[i].resize(kRange);
      source.fetch(i * 1000, {HostSpan(memory[i])}, stop, [this, i](Status status, const FetchCounts&) {
        outcomes[i] = std::move(status);
        ++ended;
        done[i].set_value();
      });
    }
  }
  void wait() {
    for (std::promise<void>& one : done) one.get_future().wait();
  }
};

}  // namespace

TEST(a_missing_library_is_named) {
  std::shared_ptr<HttpClient> client;
  const Status status = HttpClient::make({.library = "libno-such-curl.so.4"}, client);
  CHECK(status.code == Code::kNoLibrary);
  CHECK(status.text.find("libno-such-curl.so.4") != std::string::npos);
  CHECK(HttpClient::make({.library = "libm.so.6"}, client).code == Code::kNoLibrary);
  CHECK(HttpClient::make({.library = ""}, client).code == Code::kInvalid);
}

TEST(one_connection_serves_many_reads) {
  if (!has_libcurl()) return;
  Remote remote(good());
  for (std::uint64_t i = 0; i < 20; ++i) CHECK(Fetched(*remote.source, i * 100, kRange).holds(i * 100));
  CHECK_EQ(remote.server.connections(), 1U);
}

TEST(no_more_requests_are_under_way_than_were_allowed) {
  if (!has_libcurl()) return;
  std::atomic<int> now{0};
  std::atomic<int> most{0};
  HttpClientOptions options = usual_options();
  options.connections = 3;
  options.threads = 2;
  Remote remote(
      [&](const ServedRequest& request) {
        const int count = ++now;
        int seen = most;
        while (seen < count && !most.compare_exchange_weak(seen, count)) {
        }
        Reply reply = good_reply(request);
        reply.at_cut = [&] { --now; };
        return reply;
      },
      hasty(), nullptr, {}, options);
  Burst burst(*remote.source, 50);
  burst.wait();
  for (std::size_t i = 0; i < 50; ++i) {
    CHECK(burst.outcomes[i].ok());
    CHECK(burst.memory[i] == pattern(i * 1000, kRange));
  }
  CHECK(most <= 3);
  CHECK(remote.source->has_room());
}

TEST(reads_outside_the_object_fail_without_a_request) {
  if (!has_libcurl()) return;
  Remote remote(good());
  CHECK(Fetched(*remote.source, kObjectBytes - 5, 6).status.code == Code::kShortRead);
  CHECK(Fetched(*remote.source, ~std::uint64_t{0}, 6).status.code == Code::kShortRead);
  CHECK(Fetched(*remote.source, kObjectBytes, 0).status.ok());
  CHECK_EQ(remote.server.log().size(), 0U);
}

TEST(a_blocking_read_gives_the_bytes) {
  if (!has_libcurl()) return;
  Remote remote(good());
  std::vector<std::byte> room(kRange);
  ConstHostSpan bytes;
  Choice choice;
  REQUIRE(remote.source->choose(7, kRange, choice).ok());
  CHECK(choice.route == Route::kRemote);
  CHECK(remote.source->read(7, kRange, room, bytes, choice).ok());
  CHECK(room == pattern(7, kRange));
}

TEST(a_slow_request_is_sent_twice_and_the_first_to_finish_wins) {
  if (!has_libcurl()) return;
  RetryPolicy policy = hasty();
  policy.hedge = true;
  policy.stall_seconds = 60;  // only a second request helps
  std::atomic<bool> slow{false};
  Remote remote(
      [&](const ServedRequest& request) {
        Reply reply = good_reply(request);
        if (slow.exchange(false)) {
          reply.cut = reply.body.size() / 2;
          reply.end = Reply::End::kStall;
        }
        return reply;
      },
      policy);
  // On a busy machine the second may be sent before any of the first's bytes were seen: then it asks for all of them.
  bool only_what_was_missing = false;
  for (int attempt = 0; attempt < 10 && !only_what_was_missing; ++attempt) {
    for (std::uint64_t i = 0; i < 64; ++i) CHECK(Fetched(*remote.source, i, kRange).status.ok());
    slow = true;
    const Fetched fetched(*remote.source, 5, kRange);
    CHECK(fetched.status.ok());
    CHECK(fetched.holds(5));
    CHECK(fetched.margin_kept);
    CHECK_EQ(fetched.counts.hedges, 1U);
    CHECK_EQ(fetched.counts.retries, 0U);
    const std::uint64_t first = remote.server.log().back().first;
    CHECK(first >= 5 && first <= 5 + kRange / 2);
    only_what_was_missing = first == 5 + kRange / 2;
  }
  CHECK(only_what_was_missing);
}

TEST(a_second_request_that_fails_leaves_the_first_alone) {
  if (!has_libcurl()) return;
  RetryPolicy policy = hasty();
  policy.hedge = true;
  policy.stall_seconds = 60;
  std::atomic<int> act{0};
  std::latch second_came(1);
  Remote remote(
      [&](const ServedRequest& request) {
        Reply reply = good_reply(request);
        const int now = act == 0 ? 0 : act++;
        if (now == 1) second_came.wait();  // the first: slow until the second has failed
        if (now == 2) {
          reply = status_reply(503);
          reply.at_cut = [&] { second_came.count_down(); };
        }
        return reply;
      },
      policy);
  for (std::uint64_t i = 0; i < 64; ++i) CHECK(Fetched(*remote.source, i, kRange).status.ok());
  act = 1;
  const Fetched fetched(*remote.source, 5, kRange);
  CHECK(fetched.status.ok());
  CHECK(fetched.holds(5));
  CHECK_EQ(fetched.counts.hedges, 1U);
}

TEST(a_stop_ends_what_is_under_way_at_once_and_nothing_is_written_later) {
  if (!has_libcurl()) return;
  RetryPolicy policy = hasty();
  policy.stall_seconds = 60;
  HttpClientOptions options = usual_options();
  options.connections = 16;
  std::latch halfway(16);
  Remote remote(
      [&](const ServedRequest& request) {
        Reply reply = good_reply(request);
        reply.cut = reply.body.size() / 2;
        reply.end = Reply::End::kStall;
        reply.at_cut = [&] { halfway.count_down(); };
        return reply;
      },
      policy, nullptr, {}, options);
  std::stop_source stop;
  Burst burst(*remote.source, 40, stop.get_token());  // 16 under way, the rest wait for them
  halfway.wait();
  stop.request_stop();
  burst.wait();
  for (const Status& status : burst.outcomes) CHECK(status.code == Code::kCancelled);
  for (auto& memory : burst.memory) std::vector<std::byte>().swap(memory);  // ASan sees a late write
  CHECK(remote.source->has_room());
  std::stop_source late;
  late.request_stop();
  CHECK(Fetched(*remote.source, 0, kRange, late.get_token()).status.code == Code::kCancelled);
}

TEST(a_stop_is_heard_while_a_read_rests) {
  if (!has_libcurl()) return;
  RetryPolicy policy = hasty();
  policy.retry_seconds = 1000;
  std::stop_source stop;
  Remote remote(
      [&](const ServedRequest&) {
        Reply reply = status_reply(503, {"Retry-After: 29"});
        reply.at_cut = [&] { stop.request_stop(); };
        return reply;
      },
      policy);
  CHECK(Fetched(*remote.source, 0, kRange, stop.get_token()).status.code == Code::kCancelled);
}

TEST(a_client_that_closes_ends_its_reads_and_refuses_more) {
  if (!has_libcurl()) return;
  std::latch halfway(1);
  RetryPolicy policy = hasty();
  policy.stall_seconds = 60;
  Remote remote(
      [&](const ServedRequest& request) {
        Reply reply = good_reply(request);
        reply.cut = 10;
        reply.end = Reply::End::kStall;
        if (request.number == 0) reply.at_cut = [&] { halfway.count_down(); };
        return reply;
      },
      policy);
  Burst burst(*remote.source, 30);
  halfway.wait();
  remote.client->close();
  burst.wait();
  for (const Status& status : burst.outcomes) CHECK(status.code == Code::kClosed);
  CHECK(Fetched(*remote.source, 0, kRange).status.code == Code::kClosed);
  remote.client->close();
}

TEST(the_last_source_may_end_on_the_client_s_own_thread) {
  if (!has_libcurl()) return;
  Remote remote(good());
  std::promise<void> ended;
  {
    auto source = std::move(remote.source);
    remote.client.reset();
    auto kept = std::make_shared<std::shared_ptr<Source>>(source);
    Source& last = *source;
    source.reset();
    auto memory = std::make_shared<std::vector<std::byte>>(kRange);
    last.fetch(0, {HostSpan(*memory)}, {}, [kept, memory, &ended](Status, const FetchCounts&) {
      kept->reset();  // the client ends with it
      ended.set_value();
    });
  }
  ended.get_future().wait();
}

TEST(a_redirect_is_followed_and_remembered) {
  if (!has_libcurl()) return;
  Remote remote(
      [](const ServedRequest& request) {
        if (request.target.starts_with("/object")) return status_reply(302, {"Location: /real?token=T"});
        return good_reply(request);
      },
      hasty(), nullptr, {"Authorization: Bearer SECRET"});
  for (std::uint64_t i = 0; i < 3; ++i) CHECK(Fetched(*remote.source, i, kRange).holds(i));
  const auto log = remote.server.log();
  REQUIRE(log.size() == 4);  // one that was sent on
  CHECK_EQ(log[1].target, "/real?token=T");
  CHECK_EQ(log[3].headers.at("authorization"), "Bearer SECRET");  // the same origin
}

TEST(what_authorises_goes_to_no_other_origin) {
  if (!has_libcurl()) return;
  const HttpServer other([](const ServedRequest& request) { return good_reply(request); });
  Remote remote([&](const ServedRequest&) { return status_reply(307, {"Location: " + other.url("/cdn?x=1")}); },
                hasty(), nullptr, {"Authorization: Bearer SECRET", "X-Token: SECRET"});
  CHECK(Fetched(*remote.source, 0, kRange).holds(0));
  REQUIRE(remote.server.log().size() == 1);
  CHECK_EQ(remote.server.log()[0].headers.at("x-token"), "SECRET");
  REQUIRE(other.log().size() == 1);
  CHECK_EQ(other.log()[0].headers.count("authorization"), 0U);
  CHECK_EQ(other.log()[0].headers.count("x-token"), 0U);
  CHECK_EQ(other.log()[0].headers.at("if-match"), kEtag);
}

TEST(redirects_in_a_circle_and_to_nowhere_end) {
  if (!has_libcurl()) return;
  Remote circle([](const ServedRequest&) { return status_reply(302, {"Location: /object"}); });
  CHECK(Fetched(*circle.source, 0, kRange).status.code == Code::kReadFailed);
  CHECK_EQ(circle.server.log().size(), static_cast<std::size_t>(kMostRedirects) + 1);
  Remote nowhere([](const ServedRequest&) { return status_reply(302); });
  CHECK(Fetched(*nowhere.source, 0, kRange).status.code == Code::kReadFailed);
  Remote elsewhere([](const ServedRequest&) { return status_reply(302, {"Location: file:///etc/passwd"}); });
  CHECK(Fetched(*elsewhere.source, 0, kRange).status.code == Code::kReadFailed);
}

TEST(a_redirect_that_has_expired_is_asked_for_again) {
  if (!has_libcurl()) return;
  std::atomic<int> version{1};
  Remote remote([&](const ServedRequest& request) {
    const std::string now = "/real" + std::to_string(version);
    if (request.target.starts_with("/object")) return status_reply(302, {"Location: " + now});
    return request.target == now ? good_reply(request) : status_reply(403);
  });
  CHECK(Fetched(*remote.source, 0, kRange).holds(0));
  version = 2;
  CHECK(Fetched(*remote.source, 1, kRange).holds(1));
  CHECK(Fetched(*remote.source, 2, kRange).holds(2));
  CHECK_EQ(remote.server.log().size(), 2U + 3U + 1U);
}

TEST(a_url_that_has_expired_is_renewed_once_for_all) {
  if (!has_libcurl()) return;
  for (const int refusal : {401, 403, 404}) {
    std::atomic<int> renewals{0};
    std::string fresh;
    Remote remote(
        [&](const ServedRequest& request) {
          const bool good = request.number == 0 || request.target.starts_with("/fresh");
          return good ? good_reply(request) : status_reply(refusal);
        },
        hasty(),
        [&](int status, HttpRequest& out) {
          CHECK_EQ(status, refusal);
          ++renewals;
          out.url = fresh;
          return Status{};
        });
    fresh = remote.server.url("/fresh");
    CHECK(Fetched(*remote.source, 0, kRange).status.ok());
    Burst burst(*remote.source, 12);
    burst.wait();
    for (const Status& status : burst.outcomes) CHECK_EQ(status.text, "");
    CHECK_EQ(renewals, 1);
  }
}

TEST(a_renewal_that_does_not_help_or_fails_is_the_end) {
  if (!has_libcurl()) return;
  std::string same;
  Remote remote([](const ServedRequest&) { return status_reply(403, {}, "<Code>AccessDenied</Code>"); }, hasty(),
                [&](int, HttpRequest& out) {
                  out.url = same;
                  return Status{};
                });
  same = remote.server.url();
  const Fetched refused(*remote.source, 0, kRange);
  CHECK(refused.status.code == Code::kPermission);
  CHECK_EQ(refused.counts.requests, 2U);
  CHECK_EQ(refused.counts.renewals, 1U);
  CHECK(refused.status.text.find("(AccessDenied)") != std::string::npos);
  Remote failing([](const ServedRequest&) { return status_reply(403); }, hasty(),
                 [](int, HttpRequest&) { return Status::failure(Code::kCallbackFailed, "no credentials"); });
  Burst burst(*failing.source, 5);
  burst.wait();
  for (const Status& status : burst.outcomes) {
    CHECK(status.code == Code::kCallbackFailed);
    CHECK_EQ(status.source, "http://bucket/object");
  }
}

TEST(a_stop_is_heard_while_a_renewal_is_under_way) {
  if (!has_libcurl()) return;
  std::promise<void> asked;
  std::promise<void> answer;
  std::shared_future<void> answered = answer.get_future().share();
  Remote remote([](const ServedRequest&) { return status_reply(403); }, hasty(),
                [&](int, HttpRequest&) {
                  asked.set_value();
                  answered.wait();
                  return Status::failure(Code::kCallbackFailed, "too late");
                });
  std::stop_source stop;
  Burst burst(*remote.source, 1, stop.get_token());
  asked.get_future().wait();
  stop.request_stop();
  burst.wait();
  CHECK(burst.outcomes[0].code == Code::kCancelled);
  answer.set_value();
}

TEST(a_missing_object_is_not_renewed_before_it_was_ever_there) {
  if (!has_libcurl()) return;
  Remote remote([](const ServedRequest&) { return status_reply(404); }, hasty(),
                [](int, HttpRequest&) {
                  CHECK(false);
                  return Status{};
                });
  CHECK(Fetched(*remote.source, 0, kRange).status.code == Code::kNotFound);
}

TEST(malformed_urls_and_headers_are_refused) {
  if (!has_libcurl()) return;
  Remote remote(good());
  std::shared_ptr<Source> source;
  const auto make = [&](const std::string& url, std::vector<std::string> headers, const std::string& etag) {
    return HttpSource::make(remote.client, {"u", 10, etag, "", {}}, {url, std::move(headers)}, nullptr, source).code;
  };
  CHECK(make("ftp://host/x", {}, "") == Code::kInvalid);
  CHECK(make("object", {}, "") == Code::kInvalid);
  CHECK(make("http://host/x", {"A: b\r\nC: d"}, "") == Code::kInvalid);
  CHECK(make("http://host/x", {}, "\"\n\"") == Code::kInvalid);
  CHECK(make("http://host/x", {"A: b"}, "") == Code::kOk);
}
