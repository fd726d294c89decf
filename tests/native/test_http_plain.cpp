// Connections without TLS, which are taken over from libcurl: their framing, their reuse, and servers that drip.
#include "http_fixture.hpp"

using namespace streamload;

namespace {

constexpr std::size_t kRange = 100'000;
constexpr std::uint64_t kOffset = 1000;

std::string head_of(const ServedRequest& request, const std::string& lines, int status = 206) {
  return "HTTP/1.1 " + std::to_string(status) + " Said\r\nContent-Range: bytes " + std::to_string(request.first) + "-" +
         std::to_string(request.last) + "/" + std::to_string(kObjectBytes) + "\r\nETag: " + kEtag + "\r\n" + lines +
         "\r\n";
}

std::string body_of(const ServedRequest& request) {
  const std::vector<std::byte> bytes = pattern(request.first, request.nbytes());
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string in_chunks(const std::string& body, std::size_t each) {
  std::string out;
  for (std::size_t at = 0; at < body.size(); at += each) {
    const std::string piece = body.substr(at, each);
    char size[32];
    std::snprintf(size, sizeof size, "%zX;x=y\r\n", piece.size());
    out += size + piece + "\r\n";
  }
  return out + "0\r\nTrailer: z\r\n\r\n";
}

Reply raw(std::string bytes, Reply::End end = Reply::End::kKeep) {
  Reply reply;
  reply.raw = std::move(bytes);
  reply.end = end;
  return reply;
}

// What `answer` says comes first, good answers follow.
HttpServer::Script first(std::function<Reply(const ServedRequest&)> answer) {
  return [answer = std::move(answer)](const ServedRequest& request) {
    return request.number == 0 ? answer(request) : good_reply(request);
  };
}

}  // namespace

TEST(what_is_asked_for_is_what_was_signed) {
  if (!has_libcurl()) return;
  Remote remote([](const ServedRequest& request) { return good_reply(request); });
  std::string url = remote.server.url("?versionId=a%2Fb#part");
  url.replace(url.find("127.0.0.1"), 9, "LocalHost");
  std::shared_ptr<Source> source;
  REQUIRE(HttpSource::make(remote.client, {"http://bucket/object", kObjectBytes, kEtag, "", hasty()},
                           {url, {"X-Amz-Date: now"}}, nullptr, source)
              .ok());
  CHECK(Fetched(*source, kOffset, kRange).holds(kOffset));
  const ServedRequest request = remote.server.log().at(0);
  CHECK_EQ(request.target, "/?versionId=a%2Fb");
  CHECK(request.headers.at("host").starts_with("LocalHost:"));
  CHECK_EQ(request.headers.at("x-amz-date"), "now");
  CHECK_EQ(request.headers.at("if-match"), kEtag);
}

TEST(bodies_in_chunks_are_put_together_in_place) {
  if (!has_libcurl()) return;
  for (const std::size_t each : {std::size_t{1}, std::size_t{7}, std::size_t{5000}, std::size_t{70'000}, kRange}) {
    Remote remote([&](const ServedRequest& request) {
      return raw(head_of(request, "Transfer-Encoding: chunked\r\n") + in_chunks(body_of(request), each));
    });
    for (std::uint64_t i = 0; i < 3; ++i) {
      const Fetched fetched(*remote.source, kOffset + i, kRange);
      CHECK_EQ(fetched.status.text, "");
      CHECK(fetched.holds(kOffset + i));
      CHECK(fetched.margin_kept);
    }
    CHECK_EQ(remote.server.connections(), 1U);
  }
}

TEST(chunks_with_more_than_was_asked_for_are_refused) {
  if (!has_libcurl()) return;
  Remote remote(first([](const ServedRequest& request) {
    return raw(head_of(request, "Transfer-Encoding: chunked\r\n") + in_chunks(body_of(request) + "more", 40'000));
  }));
  const Fetched fetched(*remote.source, kOffset, kRange);
  CHECK(fetched.holds(kOffset));
  CHECK(fetched.margin_kept);
  CHECK_EQ(fetched.counts.requests, 2U);
  CHECK_EQ(remote.server.connections(), 2U);
}

TEST(a_body_may_end_with_its_connection) {
  if (!has_libcurl()) return;
  Remote remote([](const ServedRequest& request) {
    return raw(head_of(request, "Connection: close\r\n") + body_of(request), Reply::End::kClose);
  });
  for (std::uint64_t i = 0; i < 3; ++i) CHECK(Fetched(*remote.source, kOffset + i, kRange).holds(kOffset + i));
  CHECK_EQ(remote.server.connections(), 3U);
  // Too much of it is refused, too little is asked for again.
  for (const bool more : {true, false}) {
    Remote wrong(first([&](const ServedRequest& request) {
      const std::string body = body_of(request);
      return raw(head_of(request, "") + (more ? body + "x" : body.substr(0, kRange / 2)), Reply::End::kClose);
    }));
    const Fetched fetched(*wrong.source, kOffset, kRange);
    CHECK(fetched.holds(kOffset));
    CHECK(fetched.margin_kept);
    CHECK_EQ(fetched.counts.requests, 2U);
    CHECK_EQ(fetched.counts.resumes, more ? 0U : 1U);
  }
}

TEST(interim_answers_are_passed_over) {
  if (!has_libcurl()) return;
  Remote remote([](const ServedRequest& request) {
    const std::string length = "Content-Length: " + std::to_string(request.nbytes()) + "\r\n";
    return raw("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nETag: \"two\"\r\n\r\n" +
               head_of(request, length) + body_of(request));
  });
  CHECK(Fetched(*remote.source, kOffset, kRange).holds(kOffset));
}

TEST(a_connection_that_ended_while_it_was_idle_is_replaced_at_once) {
  if (!has_libcurl()) return;
  for (const Reply::End end : {Reply::End::kClose, Reply::End::kReset}) {
    Remote remote([&](const ServedRequest& request) {
      Reply reply = good_reply(request);
      reply.end = end;
      return reply;
    });
    for (std::uint64_t i = 0; i < 20; ++i) {
      const Fetched fetched(*remote.source, kOffset + i, kRange);
      CHECK(fetched.holds(kOffset + i));
      CHECK_EQ(fetched.counts.requests, fetched.counts.retries + 1);
    }
  }
}

TEST(what_comes_unasked_is_never_taken_for_an_answer) {
  if (!has_libcurl()) return;
  // Behind a good answer another one, of other bytes.
  Remote remote([](const ServedRequest& request) {
    ServedRequest other = request;
    other.first += 1;
    other.last += 1;
    const std::string length = "Content-Length: " + std::to_string(request.nbytes()) + "\r\n";
    return raw(head_of(request, length) + body_of(request) + head_of(request, length) + body_of(other));
  });
  for (std::uint64_t i = 0; i < 10; ++i) {
    const Fetched fetched(*remote.source, kOffset, kRange);
    CHECK(fetched.holds(kOffset));
    CHECK(fetched.margin_kept);
  }
}

TEST(what_is_not_http_is_strange) {
  if (!has_libcurl()) return;
  const std::pair<const char*, const char*> answers[] = {
      {"SSH-2.0-OpenSSH_9.2\r\n", "not HTTP"},
      {"\r\n\r\n", "not HTTP"},
      {"HTTP/1.1 abc\r\n\r\n", "not HTTP"},
      {"<html>no line ends here", "not HTTP"},
  };
  for (const auto& [bytes, words] : answers) {
    Remote remote([text = std::string(bytes)](const ServedRequest&) { return raw(text, Reply::End::kClose); });
    const Fetched fetched(*remote.source, kOffset, kRange);
    CHECK(fetched.status.code == Code::kReadFailed);
    CHECK(fetched.status.text.find(words) != std::string::npos || check::fail(__FILE__, __LINE__, fetched.status.text));
    CHECK_EQ(fetched.counts.requests, static_cast<std::uint64_t>(kMostStrange));
  }
}

TEST(heads_without_end_and_malformed_chunks_are_tried_again) {
  if (!has_libcurl()) return;
  std::string endless = "HTTP/1.1 206 Said\r\n";
  for (int i = 0; i < 20'000; ++i) endless += "X-Filler: and on and on\r\n";
  const std::function<std::string(const ServedRequest&)> answers[] = {
      [&](const ServedRequest&) { return endless; },
      [&](const ServedRequest&) { return "HTTP/1.1 206 Said\r\nX: " + std::string(500'000, 'x'); },
      [&](const ServedRequest& r) { return head_of(r, "Transfer-Encoding: chunked\r\n") + "zz\r\nhello"; },
      [&](const ServedRequest& r) { return head_of(r, "Transfer-Encoding: gzip, chunked\r\n") + "0\r\n\r\n"; },
      [&](const ServedRequest& r) {
        return head_of(r, "Transfer-Encoding: chunked\r\n") + "5\r\n" + body_of(r).substr(0, 5) + "X";
      },
  };
  for (const auto& answer : answers) {
    Remote remote(first([&](const ServedRequest& request) { return raw(answer(request), Reply::End::kClose); }));
    const Fetched fetched(*remote.source, kOffset, kRange);
    CHECK_EQ(fetched.status.text, "");
    CHECK(fetched.holds(kOffset));
    CHECK(fetched.margin_kept);
  }
}

TEST(an_error_s_words_may_come_in_chunks) {
  if (!has_libcurl()) return;
  Remote remote([](const ServedRequest&) {
    return raw("HTTP/1.1 403 No\r\nTransfer-Encoding: chunked\r\n\r\n" +
               in_chunks("<Error><Code>AccessDenied</Code></Error>", 9));
  });
  const Fetched fetched(*remote.source, kOffset, kRange);
  CHECK(fetched.status.code == Code::kPermission);
  CHECK(fetched.status.text.find("(AccessDenied)") != std::string::npos);
  CHECK(Fetched(*remote.source, kOffset, kRange).status.code == Code::kPermission);
  CHECK_EQ(remote.server.connections(), 1U);  // what an error said was read to its end
}

TEST(a_redirect_is_meant_relative_to_where_it_came_from) {
  if (!has_libcurl()) return;
  Remote remote([](const ServedRequest& request) {
    if (request.target.starts_with("/object")) return status_reply(302, {"Location: deep/er/"});
    if (request.target == "/deep/er/") return status_reply(307, {"Location: ?token=T#part"});
    if (request.target == "/deep/er/?token=T") return status_reply(308, {"Location: ../real%2Fx"});
    return request.target == "/deep/real%2Fx" ? good_reply(request) : status_reply(404);
  });
  const Fetched fetched(*remote.source, kOffset, kRange);
  CHECK_EQ(fetched.status.text, "");
  CHECK(fetched.holds(kOffset));
}

TEST(a_server_that_drips_is_given_up) {
  if (!has_libcurl()) return;
  // A byte at a time, and never an end: each is a sign of life, none is progress.
  for (const bool in_head : {false, true}) {
    RetryPolicy policy = impatient();
    policy.retry_seconds = 1;
    Remote remote(
        [&](const ServedRequest& request) {
          Reply reply = raw(in_head ? "HTTP/1.1 206 Said\r\n"
                                    : head_of(request, "Content-Length: " + std::to_string(request.nbytes()) + "\r\n"));
          reply.drip = in_head ? "X" : body_of(request);
          return reply;
        },
        policy);
    const Fetched fetched(*remote.source, kOffset, kRange);
    CHECK(fetched.status.code == Code::kReadFailed);
    CHECK_EQ(fetched.status.system_code, ETIMEDOUT);
    CHECK(fetched.margin_kept);
    if (!in_head) CHECK(fetched.status.text.find("less than 1 KiB in") != std::string::npos);
  }
}

TEST(one_byte_for_each_attempt_is_no_progress) {
  if (!has_libcurl()) return;
  RetryPolicy policy = hasty();
  policy.retry_seconds = 1;
  Remote remote(
      [](const ServedRequest& request) {
        Reply reply = good_reply(request);
        reply.cut = 1;
        reply.end = Reply::End::kClose;
        return reply;
      },
      policy);
  CHECK(!Fetched(*remote.source, kOffset, kRange).status.ok());
}
