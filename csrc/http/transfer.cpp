#include "http/transfer.hpp"

#include <algorithm>
#include <cerrno>
#include <ctime>
#include <utility>

#include "http/curl_transfer.hpp"
#include "http/plain_transfer.hpp"

namespace streamload {
namespace {

// Of the body of an error: what is looked at, and after how much of it the connection is better dropped.
constexpr std::size_t kErrorBytesKept = 2 << 10;
constexpr std::size_t kErrorBytesRead = 64 << 10;
constexpr long kDnsSeconds = 60;

bool brings_bytes(int status) noexcept { return status == 200 || status == 206; }

bool is_certificate_error(CurlCode code) noexcept {
  switch (code) {
    case CurlCode::kSslCertProblem:
    case CurlCode::kPeerFailedVerification:
    case CurlCode::kSslCaCertBadFile:
    case CurlCode::kSslIssuerError:
    case CurlCode::kSslPinnedKeyMismatch:
    case CurlCode::kSslInvalidCertStatus: return true;
    default: return false;
  }
}

int errno_of(CurlCode code, int system_error) noexcept {
  if (code == CurlCode::kOperationTimedOut) return ETIMEDOUT;
  if (system_error != 0) return system_error;
  switch (code) {
    case CurlCode::kCouldntResolveHost:
    case CurlCode::kCouldntResolveProxy: return EHOSTUNREACH;
    case CurlCode::kCouldntConnect: return ECONNREFUSED;
    case CurlCode::kGotNothing:
    case CurlCode::kSendError:
    case CurlCode::kRecvError: return ECONNRESET;
    case CurlCode::kOutOfMemory: return ENOMEM;
    default: return EIO;
  }
}

}  // namespace

std::unique_ptr<Transfer> Transfer::make(Connections& connections, What what, const Clock::time_point& now) {
  if (connections.takes_over() && PlainTransfer::takes(connections.curl(), what.request->url)) {
    return std::make_unique<PlainTransfer>(connections, std::move(what), now);
  }
  return std::make_unique<CurlTransfer>(connections, std::move(what), now);
}

Transfer::Transfer(Connections& connections, What what, const Clock::time_point& now)
    : connections_(connections),
      what_(std::move(what)),
      now_(now),
      began_(Clock::now()),
      progress_(began_),
      progress_position_(what_.part.position),
      position_(what_.part.position) {}

std::vector<std::string> Transfer::request_lines() const {
  const std::string& etag = what_.object->facts().etag;
  const Part& part = what_.part;
  std::vector<std::string> lines{"Range: bytes=" + std::to_string(part.offset) + "-" +
                                 std::to_string(part.offset + part.nbytes - 1)};
  // A weak ETag never matches (RFC 9110, 13.1.1); it is compared with the answer's all the same.
  if (!etag.empty() && !etag.starts_with("W/")) lines.push_back("If-Match: " + etag);
  lines.insert(lines.end(), what_.request->headers.begin(), what_.request->headers.end());
  return lines;
}

bool Transfer::prepare_to_connect(CurlEasy* easy, const std::string& url) {
  const HttpObject::Facts& facts = what_.object->facts();
  bool good = true;
  const auto set = [&](CurlOption option, auto value) {
    good = connections_.curl().easy_setopt(easy, option, value) == CurlCode::kOk && good;
  };
  set(CurlOption::kUrl, url.c_str());
  set(CurlOption::kPrivate, static_cast<void*>(this));
  set(CurlOption::kErrorBuffer, error_text_.data());
  set(CurlOption::kProxy, "");  // or libcurl reads the environment; who wants a proxy, goes another way
  set(CurlOption::kHttpVersion, kCurlHttp11);
  set(CurlOption::kProtocols, kCurlProtocolsHttp);
  set(CurlOption::kNoSignal, 1L);
  set(CurlOption::kTcpKeepAlive, 1L);
  const auto connect =
      std::chrono::duration_cast<std::chrono::milliseconds>(from_seconds(facts.policy.connect_seconds));
  set(CurlOption::kConnectTimeoutMs, static_cast<long>(std::max<std::int64_t>(connect.count(), 1)));
  set(CurlOption::kFreshConnect, what_.part.fresh ? 1L : 0L);
  set(CurlOption::kDnsCacheTimeout, what_.part.fresh ? 0L : kDnsSeconds);
  const bool needed = good;
  // What an older libcurl does without.
  set(CurlOption::kDnsShuffleAddresses, 1L);
  set(CurlOption::kQuickExit, 1L);  // or a name that is still being looked up is waited for
  return needed;
}

Asked Transfer::asked() const noexcept {
  const HttpObject::Facts& facts = what_.object->facts();
  return {what_.part.offset, what_.part.nbytes, facts.nbytes, facts.etag, what_.part.whole};
}

bool Transfer::believes() noexcept {
  if (!brings_bytes(head_.status)) return true;
  if (!judged_) {
    judged_ = true;
    progress_ = now_;
    judgement_ = judge(head_, asked(), {});
    if (judgement_.answer == Answer::kWhole) position_ = progress_position_ = 0;
    what_.target.seek(position_);
  }
  return judgement_.answer == Answer::kBytes || judgement_.answer == Answer::kWhole;
}

std::size_t Transfer::take(ConstHostSpan body) noexcept {
  if (!believes()) return 0;
  if (!brings_bytes(head_.status)) {
    error_bytes_ += body.size();
    const std::size_t kept = std::min(body.size(), kErrorBytesKept - std::min(error_body_.size(), kErrorBytesKept));
    error_body_.append(reinterpret_cast<const char*>(body.data()), kept);
    return error_bytes_ > kErrorBytesRead ? 0 : body.size();
  }
  if (body.size() > room()) {
    overrun();
    return 0;
  }
  what_.target.write(body);
  note(body.size());
  return body.size();
}

void Transfer::note(std::size_t nbytes) noexcept {
  position_ += nbytes;
  if (position_ - progress_position_ < kLeastProgress && room() > 0) return;
  progress_position_ = position_;
  progress_ = now_;
}

CurlCode Transfer::failed(CurlCode code, const std::string& why) {
  const std::size_t count = why.copy(error_text_.data(), error_text_.size() - 1);
  error_text_.at(count) = '\0';
  return code;
}

std::size_t Transfer::reached() const noexcept {
  return overran_ ? what_.part.position : std::max(what_.part.position, position_);
}

TransferEnd Transfer::end(CurlCode code) const {
  if (judged_ && judgement_.answer != Answer::kBytes && judgement_.answer != Answer::kWhole) {
    return {.answer = judgement_.answer, .fell_short = judgement_.too_short, .error = EIO, .text = judgement_.text};
  }
  if (judged_) return end_of_bytes(code);
  const bool answered = head_.status != 0 && (code == CurlCode::kOk || error_bytes_ > 0);
  if (!answered) return end_of_connection(code);
  const Judgement judgement = judge(head_, asked(), error_code_of(error_body_));
  TransferEnd end{.answer = judgement.answer, .error = EIO, .text = judgement.text};
  end.retry_after = retry_after_seconds(head_.retry_after, static_cast<std::int64_t>(std::time(nullptr)));
  if (end.answer == Answer::kRedirect) {
    end.location = redirect_url();
  } else if (end.answer == Answer::kBytes || end.answer == Answer::kWhole) {  // a good head, and nothing behind it
    return end_of_bytes(code);
  }
  return end;
}

TransferEnd Transfer::end_of_bytes(CurlCode code) const {
  if (overran_) return {.answer = Answer::kStrange, .error = EIO, .text = "the body is longer than the range"};
  if (position_ == what_.part.position + what_.part.nbytes) return {.answer = Answer::kBytes, .complete = true};
  if (code != CurlCode::kOk && code != CurlCode::kPartialFile) return end_of_connection(code);
  return {.answer = Answer::kRetry,
          .fell_short = true,
          .text = "the body ended after " + std::to_string(position_ - std::min(position_, what_.part.position)) +
                  " of " + std::to_string(what_.part.nbytes) + " bytes"};
}

TransferEnd Transfer::end_of_connection(CurlCode code) const {
  std::string text = error_text_[0] != '\0' ? error_text_.data() : connections_.curl().easy_strerror(code);
  text.resize(std::min(text.size(), text.find('?')));  // whatever libcurl may quote, no query string gets out
  TransferEnd end{.answer = Answer::kRetry, .error = errno_of(code, system_error()), .text = std::move(text)};
  end.fell_short = code == CurlCode::kPartialFile;
  end.stale = stale_;
  if (code == CurlCode::kUnsupportedProtocol) end.answer = Answer::kStrange;  // an answer that is no HTTP
  if (code == CurlCode::kUrlMalformat || code == CurlCode::kOutOfMemory || is_certificate_error(code)) {
    end.answer = Answer::kFailed;
  }
  if (is_certificate_error(code)) end.error = EPROTO;
  return end;
}

}  // namespace streamload
