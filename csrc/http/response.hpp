// What an HTTP answer to a ranged GET is worth: pure judging of its status and headers (RFC 9110, sections 14 and 15).
//
// Believed is only a 206 for exactly the bytes that were asked for, of an object of the length and with the ETag that
// it had when it was opened; and a 200 with the whole object where that was asked for.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace streamload {

struct ContentRange {
  std::uint64_t first = 0;
  std::uint64_t last = 0;  // the last byte itself, as HTTP counts
  std::optional<std::uint64_t> total;
  bool unsatisfied = false;  // "bytes */N": no such range
};

struct ResponseHead {
  int status = 0;
  std::optional<ContentRange> range;
  bool range_broken = false;  // there was a Content-Range that says nothing
  std::optional<std::uint64_t> content_length;
  std::optional<std::string> etag;
  std::string encoding;  // Content-Encoding, empty where there is none
  std::string retry_after;
  std::string location;
  bool chunked = false;  // Transfer-Encoding
  bool closes = false;   // the connection takes no other request
};

// Takes one line of a head, as it came. A status line begins anew: what came before was only a 1xx.
void take_header(std::string_view line, ResponseHead& head);

[[nodiscard]] std::optional<ContentRange> parse_content_range(std::string_view value);
// Seconds that a Retry-After asks to wait, as a number or a date; `now` in seconds since 1970. 0 where it says nothing.
[[nodiscard]] double retry_after_seconds(std::string_view value, std::int64_t now);
// The code that S3 and its kin give an error in the body, "SlowDown"; empty where there is none.
[[nodiscard]] std::string error_code_of(std::string_view body);
// Scheme, host and port of a URL in lower case, "https://host:443"; user info is no part of it.
[[nodiscard]] std::string origin_of(std::string_view url);

struct Asked {
  std::uint64_t offset = 0;
  std::uint64_t nbytes = 0;
  std::uint64_t object_nbytes = 0;
  std::string_view etag;  // empty where it has none
  bool whole = false;     // this is (the rest of) a read of the whole object
};

enum class Answer : std::uint8_t {
  kBytes,      // what follows are the bytes that were asked for
  kWhole,      // what follows is the whole object, from its first byte on
  kRetry,      // the server could not just now
  kThrottled,  // nor wants to: too many requests
  kRedirect,
  kRefused,  // 401, 403, and S3's 400 for a token that is too old
  kMissing,  // 404, 410
  kChanged,  // it is another object
  kStrange,  // contradicts what was asked for or itself; perhaps some proxy's doing
  kFailed,   // for good
};

struct Judgement {
  Answer answer = Answer::kFailed;
  std::string text;        // of all but kBytes and kWhole: got against expected
  bool too_short = false;  // of kStrange: fewer bytes than the range has
};

// Judges a head. `error_code`: error_code_of the body, as far as it is known.
[[nodiscard]] Judgement judge(const ResponseHead& head, const Asked& asked, std::string_view error_code);

}  // namespace streamload
