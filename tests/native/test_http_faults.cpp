// Every way in which a server or the way to it can go wrong, at many places of the body: the right bytes or a typed
// error, within the deadline, and never a byte where none belongs.
#include "http_fixture.hpp"

using namespace streamload;

namespace {

constexpr std::uint64_t kOffset = 1000;
constexpr std::size_t kRange = 300'000;

using Fault = std::function<void(Reply&, std::size_t cut)>;

// Serves `faulty` broken answers, then good ones.
HttpServer::Script first_broken(std::size_t faulty, std::size_t tenth, Fault fault) {
  return [=](const ServedRequest& request) {
    Reply reply = good_reply(request);
    if (request.number < faulty) fault(reply, reply.body.size() * tenth / 10);
    return reply;
  };
}

void reset_at(Reply& reply, std::size_t cut) { reply.cut = cut, reply.end = Reply::End::kReset; }
void close_at(Reply& reply, std::size_t cut) { reply.cut = cut, reply.end = Reply::End::kClose; }
void stall_at(Reply& reply, std::size_t cut) { reply.cut = cut, reply.end = Reply::End::kStall; }
void reset_before(Reply& reply, std::size_t) { reply.silent = true, reply.end = Reply::End::kReset; }
void close_before(Reply& reply, std::size_t) { reply.silent = true, reply.end = Reply::End::kClose; }
void stall_before(Reply& reply, std::size_t) { reply.silent = true, reply.end = Reply::End::kStall; }
void half_that_agrees(Reply& reply, std::size_t cut) { reply.body.resize(std::min(cut, reply.body.size() - 1)); }
Fault answers(int status) {
  return [status](Reply& reply, std::size_t) { reply = status_reply(status, {}, "<Code>SlowDown</Code>"); };
}

}  // namespace

TEST(what_happens_once_or_twice_ends_in_the_right_bytes) {
  if (!has_libcurl()) return;
  const std::pair<const char*, Fault> faults[] = {
      {"reset", reset_at},
      {"close", close_at},
      {"stall", stall_at},
      {"reset before", reset_before},
      {"close before", close_before},
      {"stall before", stall_before},
      {"half", half_that_agrees},
      {"408", answers(408)},
      {"429", answers(429)},
      {"500", answers(500)},
      {"502", answers(502)},
      {"503", answers(503)},
      {"504", answers(504)},
  };
  for (const auto& [name, fault] : faults) {
    const bool by_place = fault.target<void (*)(Reply&, std::size_t)>() != nullptr && std::strchr(name, ' ') == nullptr;
    const bool slow = std::strstr(name, "stall") != nullptr;
    for (std::size_t tenth = 0; tenth < (by_place ? 10U : 1U); tenth += slow ? 4 : 1) {
      for (const std::size_t times : {1U, 2U}) {
        Remote remote(first_broken(times, tenth, fault), slow ? impatient() : hasty());
        const Fetched fetched(*remote.source, kOffset, kRange);
        CHECK_EQ(fetched.status.text, "");
        CHECK(fetched.holds(kOffset));
        CHECK(fetched.margin_kept);
        // On a busy machine what is only late counts as stalled.
        CHECK(slow ? fetched.counts.retries >= times : fetched.counts.retries == times);
        CHECK_EQ(fetched.counts.requests, fetched.counts.retries + 1);
      }
    }
  }
}

TEST(a_retry_asks_only_for_what_is_missing) {
  if (!has_libcurl()) return;
  for (std::size_t tenth = 1; tenth < 10; ++tenth) {
    Remote remote(first_broken(1, tenth, close_at));
    const Fetched fetched(*remote.source, kOffset, kRange);
    CHECK(fetched.status.ok());
    CHECK(fetched.holds(kOffset));
    CHECK_EQ(fetched.counts.resumes, 1U);
    const auto log = remote.server.log();
    REQUIRE(log.size() == 2);
    CHECK_EQ(log[1].first, kOffset + kRange * tenth / 10);
    CHECK_EQ(log[1].last, kOffset + kRange - 1);
    CHECK_EQ(log[1].headers.at("if-match"), kEtag);
  }
}

TEST(every_body_cut_still_arrives_piece_by_piece) {
  if (!has_libcurl()) return;
  for (const Fault& fault : {Fault(reset_at), Fault(close_at)}) {
    RetryPolicy policy = hasty();
    policy.retry_seconds = 0.5;
    Remote remote(first_broken(kAll, 5, fault), policy);
    const Fetched fetched(*remote.source, kOffset, kRange);
    // A reset may take bytes with it that had come; a last byte of which half comes never does.
    CHECK(fetched.margin_kept);
    CHECK(fetched.status.ok() ? fetched.holds(kOffset) : fetched.counts.resumes > 0);
  }
}

TEST(what_lasts_ends_in_an_error_that_says_what_and_where) {
  if (!has_libcurl()) return;
  const std::tuple<const char*, Fault, Code, int, const char*> faults[] = {
      {"503", answers(503), Code::kReadFailed, EIO, "HTTP status 503 (SlowDown)"},
      {"500", answers(500), Code::kReadFailed, EIO, "HTTP status 500"},
      {"400", answers(400), Code::kReadFailed, EIO, "HTTP status 400"},
      {"close before", close_before, Code::kReadFailed, ECONNRESET, "attempts"},
      {"stall before", stall_before, Code::kReadFailed, ETIMEDOUT, "no byte for"},
      {"stall", [](Reply& reply, std::size_t) { stall_at(reply, 0); }, Code::kReadFailed, ETIMEDOUT, "no byte for"},
      {"close", [](Reply& reply, std::size_t) { close_at(reply, 0); }, Code::kShortRead, 0, "attempts"},
      {"half", [](Reply& reply, std::size_t) { reply.body.resize(reply.body.size() / 2); }, Code::kShortRead, 0,
       "Content-Length is 150000"},
      {"404", answers(404), Code::kNotFound, ENOENT, "HTTP status 404"},
      {"403", answers(403), Code::kPermission, EACCES, "HTTP status 403"},
      {"401", answers(401), Code::kPermission, EACCES, "HTTP status 401"},
      {"412", answers(412), Code::kChanged, 0, "HTTP status 412"},
  };
  for (const auto& [name, fault, code, error, words] : faults) {
    RetryPolicy policy = std::strstr(name, "stall") != nullptr ? impatient() : hasty();
    policy.retry_seconds = 1;
    Remote remote(first_broken(kAll, 0, fault), policy);
    const Fetched fetched(*remote.source, kOffset, kRange);
    CHECK_EQ(std::string(code_name(fetched.status.code)), std::string(code_name(code)));
    CHECK_EQ(fetched.status.system_code, error);
    CHECK_EQ(fetched.status.source, "http://bucket/object");
    CHECK_EQ(fetched.status.offset, kOffset);
    CHECK_EQ(fetched.status.nbytes, kRange);
    CHECK(fetched.margin_kept);
    const std::string& text = fetched.status.text;
    CHECK(text.find(words) != std::string::npos || check::fail(__FILE__, __LINE__, text));
    CHECK(text.find("http://bucket/object: reading 300000 bytes at offset 1000: ") == 0);
    CHECK(text.find("SECRET") == std::string::npos);
    CHECK(text.find("attempt") != std::string::npos);
  }
}

TEST(answers_that_contradict_themselves_are_not_believed) {
  if (!has_libcurl()) return;
  const std::pair<const char*, Fault> faults[] = {
      {"another offset",
       [](Reply& r, std::size_t) {
         r.headers[0] = "Content-Range: bytes 0-" + std::to_string(kRange - 1) + "/1000003";
       }},
      {"no Content-Range", [](Reply& r, std::size_t) { r.headers[0] = "X: y"; }},
      {"no length", [](Reply& r, std::size_t) { r.headers[0] = "Content-Range: bytes 1000-300999/*"; }},
      {"encoded", [](Reply& r, std::size_t) { r.headers.emplace_back("Content-Encoding: gzip"); }},
      {"the whole object",
       [](Reply& r, std::size_t) {
         r = status_reply(200, {std::string("ETag: ") + kEtag});
         r.body = pattern(0, kObjectBytes);
       }},
      {"no ETag", [](Reply& r, std::size_t) { r.headers[1] = "X: y"; }},
      {"half a Content-Range", [](Reply& r, std::size_t) { r.headers[0] = "Content-Range: bytes 7-8"; }},
  };
  for (const auto& [name, fault] : faults) {
    for (const std::size_t times : {std::size_t{1}, kAll}) {
      Remote remote(first_broken(times, 0, fault));
      const Fetched fetched(*remote.source, kOffset, kRange);
      CHECK(fetched.margin_kept);
      if (times == 1) CHECK(fetched.status.ok() && fetched.holds(kOffset));
      if (times == kAll) {
        CHECK(fetched.status.code == Code::kReadFailed);
        CHECK_EQ(fetched.counts.requests, static_cast<std::uint64_t>(kMostStrange));
      }
    }
  }
}

TEST(more_bytes_than_were_asked_for_are_refused) {
  if (!has_libcurl()) return;
  // A body without a length that goes on: HTTP/1.0 style, to the end of the connection.
  Remote remote([](const ServedRequest& request) {
    Reply reply = good_reply(request);
    if (request.number > 0) return reply;
    reply.headers.emplace_back("Transfer-Encoding: identity");
    reply.body.resize(reply.body.size() + 5000);
    return reply;
  });
  const Fetched fetched(*remote.source, kOffset, kRange);
  CHECK(fetched.status.ok());
  CHECK(fetched.holds(kOffset));
  CHECK(fetched.margin_kept);
}

TEST(an_object_that_was_replaced_is_told_and_never_mixed) {
  if (!has_libcurl()) return;
  const std::pair<const char*, Fault> faults[] = {
      {"another ETag", [](Reply& r, std::size_t) { r.headers[1] = "ETag: \"two\""; }},
      {"another length", [](Reply& r, std::size_t) { r.headers[0] = "Content-Range: bytes 1000-300999/1000004"; }},
      {"416 and shorter", [](Reply& r, std::size_t) { r = status_reply(416, {"Content-Range: bytes */500"}); }},
      {"416", [](Reply& r, std::size_t) { r = status_reply(416); }},
      {"412", [](Reply& r, std::size_t) { r = status_reply(412); }},
  };
  for (const auto& [name, fault] : faults) {
    Remote remote(first_broken(kAll, 0, fault));
    const Fetched fetched(*remote.source, kOffset, kRange);
    CHECK(fetched.status.code == Code::kChanged);
    CHECK_EQ(fetched.counts.requests, 1U);
    CHECK(std::all_of(fetched.bytes.begin(), fetched.bytes.end(), [](std::byte b) { return b == std::byte{0xA5}; }));
  }
  // After a part of it came: what follows is of another version.
  Remote remote([](const ServedRequest& request) {
    Reply reply = good_reply(request);
    if (request.number == 0) close_at(reply, kRange / 2);
    if (request.number > 0) reply.headers[1] = "ETag: \"two\"";
    return reply;
  });
  CHECK(Fetched(*remote.source, kOffset, kRange).status.code == Code::kChanged);
}

TEST(the_whole_object_may_come_with_status_200) {
  if (!has_libcurl()) return;
  const auto whole = [](const ServedRequest& request) {
    Reply reply = status_reply(200, {std::string("ETag: ") + kEtag});
    reply.body = pattern(0, kObjectBytes);
    if (request.number == 0) close_at(reply, kObjectBytes / 2);
    return reply;
  };
  Remote remote(whole);  // cut once, and the retry gets the whole of it again
  const Fetched fetched(*remote.source, 0, kObjectBytes);
  CHECK_EQ(fetched.status.text, "");
  CHECK(fetched.holds(0));
  CHECK(fetched.margin_kept);
}

TEST(a_server_that_says_when_to_come_back_is_obeyed) {
  if (!has_libcurl()) return;
  const auto throttled = [](const char* after) {
    return [after](const ServedRequest& request) {
      return request.number == 0 ? status_reply(429, {after}) : good_reply(request);
    };
  };
  Remote patient(throttled("Retry-After: 1"));
  const auto before = std::chrono::steady_clock::now();
  const Fetched fetched(*patient.source, kOffset, kRange);
  CHECK(fetched.status.ok());
  CHECK_EQ(fetched.counts.throttled, 1U);
  CHECK(std::chrono::steady_clock::now() - before >= std::chrono::seconds(1));  // never sooner
  // Later than this read may take at all: said at once.
  Remote late(throttled("Retry-After: 25"));
  const Fetched refused(*late.source, kOffset, kRange);
  CHECK(refused.status.code == Code::kReadFailed);
  CHECK(refused.status.text.find("the server asks to wait 25 s") != std::string::npos);
  CHECK_EQ(refused.counts.requests, 1U);
}

TEST(where_nobody_listens_the_read_fails_in_time) {
  if (!has_libcurl()) return;
  RetryPolicy policy = hasty();
  policy.retry_seconds = 0.2;
  std::shared_ptr<Source> source;
  std::shared_ptr<HttpClient> client;
  std::string url;
  {
    const HttpServer gone([](const ServedRequest& request) { return good_reply(request); });
    url = gone.url();
  }
  REQUIRE(HttpClient::make({}, client).ok());
  REQUIRE(HttpSource::make(client, {"http://bucket/object", kObjectBytes, kEtag, "", policy},
                           {.url = url, .headers = {}}, nullptr, source)
              .ok());
  const Fetched fetched(*source, kOffset, kRange);
  CHECK(fetched.status.code == Code::kReadFailed);
  CHECK_EQ(fetched.status.system_code, ECONNREFUSED);
}
