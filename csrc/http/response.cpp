#include "http/response.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <ctime>

namespace streamload {
namespace {

constexpr std::string_view kBlank = " \t\r\n";

std::string_view trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(kBlank);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kBlank) - first + 1);
}

// ASCII alone, whatever the locale.
char lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

std::string lowered(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), lower);
  return out;
}

bool same_word(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](char x, char y) { return lower(x) == lower(y); });
}

std::optional<std::uint64_t> number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return {};
  return value;
}

// What a server said, fit to be shown.
std::string printable(std::string_view text) {
  constexpr std::size_t kMost = 80;
  std::string out(text.substr(0, kMost));
  std::replace_if(out.begin(), out.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return text.size() > kMost ? out + "..." : out;
}

std::string range_text(std::uint64_t first, std::uint64_t last, std::optional<std::uint64_t> total) {
  return std::to_string(first) + "-" + std::to_string(last) + "/" + (total ? std::to_string(*total) : "*");
}

Judgement strange(std::string text) { return {Answer::kStrange, std::move(text)}; }
Judgement changed(std::string text) { return {Answer::kChanged, std::move(text)}; }

// What 200 and 206 have in common: the object must be the one that was opened, its bytes as they are.
std::optional<Judgement> judge_object(const ResponseHead& head, const Asked& asked) {
  if (!asked.etag.empty()) {
    if (!head.etag) return strange("the answer has no ETag, the object had " + std::string(asked.etag));
    if (*head.etag != asked.etag) {
      return changed("its ETag is " + printable(*head.etag) + ", it was " + std::string(asked.etag) +
                     " when it was opened");
    }
  }
  // S3 keeps "aws-chunked" for how an object was sent to it; it says nothing of how it comes.
  if (!head.encoding.empty() && !same_word(head.encoding, "identity") && !same_word(head.encoding, "aws-chunked")) {
    return strange("the answer is encoded as " + printable(head.encoding));
  }
  return {};
}

Judgement judge_part(const ResponseHead& head, const Asked& asked) {
  const std::string wanted = range_text(asked.offset, asked.offset + asked.nbytes - 1, asked.object_nbytes);
  if (!head.range || head.range->unsatisfied) {
    const char* what = head.range_broken || head.range ? "a Content-Range that names no bytes" : "no Content-Range";
    return strange("status 206 with " + std::string(what) + ", expected bytes " + wanted);
  }
  const ContentRange& range = *head.range;
  if (range.total && *range.total != asked.object_nbytes) {
    return changed("it has " + std::to_string(*range.total) + " bytes, it had " + std::to_string(asked.object_nbytes) +
                   " when it was opened");
  }
  if (auto wrong = judge_object(head, asked)) return *wrong;
  if (!range.total || range.first != asked.offset || range.last != asked.offset + asked.nbytes - 1) {
    return strange("Content-Range is bytes " + range_text(range.first, range.last, range.total) + ", expected bytes " +
                   wanted);
  }
  const std::uint64_t length = head.content_length.value_or(asked.nbytes);
  if (length != asked.nbytes) {
    Judgement wrong =
        strange("Content-Length is " + std::to_string(length) + ", expected " + std::to_string(asked.nbytes));
    wrong.too_short = length < asked.nbytes;
    return wrong;
  }
  return {Answer::kBytes, {}};
}

Judgement judge_whole(const ResponseHead& head, const Asked& asked) {
  if (auto wrong = judge_object(head, asked)) return *wrong;
  const std::uint64_t length = head.content_length.value_or(asked.object_nbytes);
  if (length != asked.object_nbytes) {
    return changed("it has " + std::to_string(length) + " bytes, it had " + std::to_string(asked.object_nbytes) +
                   " when it was opened");
  }
  if (!asked.whole) {
    return strange("status 200 with the whole object, expected 206 with bytes " +
                   range_text(asked.offset, asked.offset + asked.nbytes - 1, asked.object_nbytes));
  }
  return {Answer::kWhole, {}};
}

}  // namespace

void take_header(std::string_view line, ResponseHead& head) {
  line = trimmed(line);
  if (line.substr(0, 5) == "HTTP/") {
    head = ResponseHead{};
    head.closes = line.substr(0, 8) != "HTTP/1.1";
    const std::size_t space = line.find(' ');
    if (space != std::string_view::npos) {
      head.status = static_cast<int>(number(trimmed(line.substr(space, 4))).value_or(0));
    }
    return;
  }
  const std::size_t colon = line.find(':');
  if (colon == std::string_view::npos) return;
  const std::string_view name = line.substr(0, colon);
  const std::string_view value = trimmed(line.substr(colon + 1));
  if (same_word(name, "content-range")) {
    head.range = parse_content_range(value);
    head.range_broken = !head.range;
  } else if (same_word(name, "content-length")) {
    head.content_length = number(value);
  } else if (same_word(name, "etag")) {
    head.etag = std::string(value);
  } else if (same_word(name, "content-encoding")) {
    head.encoding = std::string(value);
  } else if (same_word(name, "retry-after")) {
    head.retry_after = std::string(value);
  } else if (same_word(name, "location")) {
    head.location = std::string(value);
  } else if (same_word(name, "transfer-encoding")) {
    head.chunked = same_word(value, "chunked");
    if (!head.chunked && !same_word(value, "identity")) head.encoding = std::string(value);
  } else if (same_word(name, "connection")) {
    head.closes = head.closes || same_word(value, "close");
  }
}

std::optional<ContentRange> parse_content_range(std::string_view value) {
  constexpr std::string_view kUnit = "bytes";
  value = trimmed(value);
  if (!same_word(value.substr(0, kUnit.size()), kUnit)) return {};
  value = trimmed(value.substr(kUnit.size()));
  const std::size_t slash = value.find('/');
  if (slash == std::string_view::npos) return {};
  ContentRange range;
  const std::string_view total = trimmed(value.substr(slash + 1));
  if (total != "*") {
    range.total = number(total);
    if (!range.total) return {};
  }
  const std::string_view bounds = trimmed(value.substr(0, slash));
  if (bounds == "*") {
    range.unsatisfied = true;
    return range;
  }
  const std::size_t dash = bounds.find('-');
  if (dash == std::string_view::npos) return {};
  const auto first = number(trimmed(bounds.substr(0, dash)));
  const auto last = number(trimmed(bounds.substr(dash + 1)));
  if (!first || !last || *last < *first || (range.total && *last >= *range.total)) return {};
  range.first = *first;
  range.last = *last;
  return range;
}

double retry_after_seconds(std::string_view value, std::int64_t now) {
  value = trimmed(value);
  if (const auto seconds = number(value)) return static_cast<double>(*seconds);
  // "Sun, 06 Nov 1994 08:49:37 GMT" (RFC 9110, 5.6.7); strptime would read names of the user's language.
  constexpr std::array kMonths{"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"};
  std::tm when{};
  std::array<char, 4> month{};
  const std::string text(value);
  // NOLINTNEXTLINE(bugprone-unchecked-string-to-number-conversion): the fields are checked by their count
  if (std::sscanf(text.c_str(), "%*3s, %2d %3s %4d %2d:%2d:%2d GMT", &when.tm_mday, month.data(), &when.tm_year,
                  &when.tm_hour, &when.tm_min, &when.tm_sec) != 6) {
    return 0;
  }
  const auto found =
      std::find_if(kMonths.begin(), kMonths.end(), [&](const char* name) { return same_word(name, month.data()); });
  if (found == kMonths.end()) return 0;
  when.tm_mon = static_cast<int>(found - kMonths.begin());
  when.tm_year -= 1900;
  return std::max(0.0, static_cast<double>(static_cast<std::int64_t>(::timegm(&when)) - now));
}

std::string error_code_of(std::string_view body) {
  constexpr std::string_view kOpen = "<Code>";
  const std::size_t open = body.find(kOpen);
  if (open == std::string_view::npos) return {};
  body = body.substr(open + kOpen.size());
  const auto is_letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto end = std::find_if_not(body.begin(), body.end(), is_letter);
  return {body.begin(), end};
}

std::string origin_of(std::string_view url) {
  const std::size_t scheme_end = url.find("://");
  if (scheme_end == std::string_view::npos) return {};
  const std::string scheme = lowered(url.substr(0, scheme_end));
  std::string_view authority = url.substr(scheme_end + 3);
  authority = authority.substr(0, authority.find_first_of("/?#"));
  if (const std::size_t at = authority.rfind('@'); at != std::string_view::npos) authority = authority.substr(at + 1);
  std::string host = lowered(authority);
  const std::size_t bracket = host.rfind(']');  // of an IPv6 address
  const std::size_t colon = host.rfind(':');
  const bool has_port = colon != std::string::npos && (bracket == std::string::npos || colon > bracket);
  if (has_port && colon + 1 == host.size()) host.pop_back();
  if (!has_port || colon + 1 > host.size()) host += scheme == "https" ? ":443" : ":80";
  return scheme + "://" + host;
}

Judgement judge(const ResponseHead& head, const Asked& asked, std::string_view error_code) {
  const auto status_text = [&] {
    std::string text = "HTTP status " + std::to_string(head.status);
    if (!error_code.empty()) text += " (" + std::string(error_code) + ")";
    return text;
  };
  switch (head.status) {
    case 206: return judge_part(head, asked);
    case 200: return judge_whole(head, asked);
    case 301:
    case 302:
    case 303:
    case 307:
    case 308: return {Answer::kRedirect, status_text()};
    case 401:
    case 403: return {Answer::kRefused, status_text()};
    case 404:
    case 410: return {Answer::kMissing, status_text()};
    case 412: return changed(status_text() + ": it no longer has the ETag " + std::string(asked.etag));
    case 416: {  // the range lies within what it had
      std::string now = head.range && head.range->total ? std::to_string(*head.range->total) + " bytes" : "fewer bytes";
      return changed(status_text() + ": it has " + std::move(now) + ", it had " + std::to_string(asked.object_nbytes) +
                     " when it was opened");
    }
    case 429:
    case 503: return {Answer::kThrottled, status_text()};
    case 408:
    case 500:
    case 502:
    case 504: return {Answer::kRetry, status_text()};
    case 400:
      // S3's word for temporary credentials that ran out, and a clock or a network's hiccup.
      if (error_code == "ExpiredToken") return {Answer::kRefused, status_text()};
      if (error_code == "RequestTimeout") return {Answer::kRetry, status_text()};
      return {Answer::kFailed, status_text()};
    default: return {Answer::kFailed, status_text()};
  }
}

}  // namespace streamload
