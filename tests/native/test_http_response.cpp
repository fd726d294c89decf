// What answers are worth, from their heads alone.
#include "check.hpp"
#include "http/response.hpp"

using namespace streamload;

namespace {

constexpr Asked kAsked{100, 50, 1000, "\"one\"", false};

ResponseHead head_of(std::initializer_list<std::string_view> lines) {
  ResponseHead head;
  for (const std::string_view line : lines) take_header(line, head);
  return head;
}

Answer answer_to(std::initializer_list<std::string_view> lines, const Asked& asked = kAsked,
                 std::string_view error_code = {}) {
  return judge(head_of(lines), asked, error_code).answer;
}

}  // namespace

TEST(only_the_bytes_that_were_asked_for_are_believed) {
  const auto part = [](std::string_view range, std::string_view length = "Content-Length: 50",
                       std::string_view etag = "ETag: \"one\"") {
    return answer_to({"HTTP/1.1 206 Partial Content\r\n", range, length, etag});
  };
  CHECK(part("Content-Range: bytes 100-149/1000\r\n") == Answer::kBytes);
  CHECK(part("content-range:bytes  100-149/1000") == Answer::kBytes);
  CHECK(part("Content-Range: bytes 101-150/1000") == Answer::kStrange);
  CHECK(part("Content-Range: bytes 100-148/1000") == Answer::kStrange);
  CHECK(part("Content-Range: bytes 100-149/*") == Answer::kStrange);
  CHECK(part("Content-Range: bytes 100-149/1001") == Answer::kChanged);
  CHECK(part("Content-Range: bytes */1000") == Answer::kStrange);
  CHECK(part("Content-Range: chunks 100-149/1000") == Answer::kStrange);
  CHECK(part("X: y") == Answer::kStrange);
  CHECK(part("Content-Range: bytes 100-149/1000", "Content-Length: 25") == Answer::kStrange);
  CHECK(part("Content-Range: bytes 100-149/1000", "X: y") == Answer::kBytes);  // a chunked body says nothing of it
  CHECK(part("Content-Range: bytes 100-149/1000", "X: y", "ETag: \"two\"") == Answer::kChanged);
  CHECK(part("Content-Range: bytes 100-149/1000", "X: y", "X: y") == Answer::kStrange);
  CHECK(part("Content-Range: bytes 100-149/1000", "Content-Encoding: gzip") == Answer::kStrange);
  CHECK(part("Content-Range: bytes 100-149/1000", "Content-Encoding: identity") == Answer::kBytes);
}

TEST(a_whole_object_is_taken_only_where_it_was_asked_for) {
  const Asked whole{0, 1000, 1000, "\"one\"", true};
  CHECK(answer_to({"HTTP/1.1 200 OK", "Content-Length: 1000", "ETag: \"one\""}, whole) == Answer::kWhole);
  CHECK(answer_to({"HTTP/1.1 200 OK", "Content-Length: 999", "ETag: \"one\""}, whole) == Answer::kChanged);
  CHECK(answer_to({"HTTP/1.1 200 OK", "Content-Length: 1000", "ETag: \"two\""}, whole) == Answer::kChanged);
  CHECK(answer_to({"HTTP/1.1 200 OK", "Content-Length: 1000", "ETag: \"one\""}) == Answer::kStrange);
  const Asked tail{900, 100, 1000, "", false};
  CHECK(answer_to({"HTTP/1.1 200 OK", "Content-Length: 1000"}, tail) == Answer::kStrange);
}

TEST(statuses_are_told_apart) {
  const std::pair<const char*, Answer> table[] = {
      {"HTTP/1.1 301 x", Answer::kRedirect},  {"HTTP/1.1 302 x", Answer::kRedirect},
      {"HTTP/1.1 307 x", Answer::kRedirect},  {"HTTP/1.1 400 x", Answer::kFailed},
      {"HTTP/1.1 401 x", Answer::kRefused},   {"HTTP/1.1 403 x", Answer::kRefused},
      {"HTTP/1.1 404 x", Answer::kMissing},   {"HTTP/1.1 410 x", Answer::kMissing},
      {"HTTP/1.1 408 x", Answer::kRetry},     {"HTTP/1.1 412 x", Answer::kChanged},
      {"HTTP/1.1 416 x", Answer::kChanged},   {"HTTP/1.1 429 x", Answer::kThrottled},
      {"HTTP/1.1 500 x", Answer::kRetry},     {"HTTP/1.1 502 x", Answer::kRetry},
      {"HTTP/1.1 503 x", Answer::kThrottled}, {"HTTP/1.1 504 x", Answer::kRetry},
      {"HTTP/1.1 505 x", Answer::kFailed},    {"HTTP/1.1 204 x", Answer::kFailed},
      {"HTTP/1.1", Answer::kFailed},
  };
  for (const auto& [line, answer] : table) CHECK_EQ(answer_to({line}), answer);
  CHECK(answer_to({"HTTP/1.1 400 x"}, kAsked, "ExpiredToken") == Answer::kRefused);
  CHECK(answer_to({"HTTP/1.1 416 x", "Content-Range: bytes */90"}) == Answer::kChanged);
  CHECK(answer_to({"HTTP/1.1 416 x", "Content-Range: bytes */1000"}) == Answer::kChanged);
}

TEST(a_status_line_begins_a_head_anew) {
  const ResponseHead head = head_of({"HTTP/1.1 100 Continue", "ETag: \"old\"", "", "HTTP/1.1 206 x", "Retry-After: 7"});
  CHECK_EQ(head.status, 206);
  CHECK(!head.etag.has_value());
  CHECK_EQ(head.retry_after, "7");
}

TEST(numbers_that_are_none_are_not_believed) {
  for (const char* text : {"bytes 5-4/10", "bytes 1-10/10", "bytes -1-4/10", "bytes 1-/10", "bytes 1-2", "bytes",
                           "bytes 18446744073709551616-18446744073709551617/*", "bytes 1-2/x", ""}) {
    CHECK(!parse_content_range(text).has_value());
  }
  CHECK(!head_of({"HTTP/1.1 206", "Content-Length: 12x"}).content_length.has_value());
}

TEST(retry_after_is_a_number_or_a_date) {
  CHECK_EQ(retry_after_seconds("120", 0), 120.0);
  CHECK_EQ(retry_after_seconds("Sun, 06 Nov 1994 08:49:37 GMT", 784111777 - 30), 30.0);
  CHECK_EQ(retry_after_seconds("Sun, 06 Nov 1994 08:49:37 GMT", 784111777 + 30), 0.0);
  CHECK_EQ(retry_after_seconds("soon", 0), 0.0);
  CHECK_EQ(retry_after_seconds("Sun, 06 Foo 1994 08:49:37 GMT", 0), 0.0);
  CHECK_EQ(retry_after_seconds("", 0), 0.0);
}

TEST(an_error_code_is_letters_only) {
  CHECK_EQ(error_code_of("<Error><Code>SlowDown</Code>"), "SlowDown");
  CHECK_EQ(error_code_of("<Error><Code>Slow?x=1</Code>"), "Slow");
  CHECK_EQ(error_code_of("no code"), "");
}

TEST(origins_are_compared_with_their_ports) {
  CHECK_EQ(origin_of("https://User:pw@Host.example/a?b"), "https://host.example:443");
  CHECK_EQ(origin_of("https://host.example:443/"), origin_of("HTTPS://HOST.example"));
  CHECK_EQ(origin_of("http://[::1]/x"), "http://[::1]:80");
  CHECK_EQ(origin_of("http://[::1]:8080"), "http://[::1]:8080");
  CHECK_EQ(origin_of("http://host:?x"), "http://host:80");
  CHECK_EQ(origin_of("/no/origin"), "");
}
