#include "http/transfer.hpp"

#include <cerrno>
#include <ctime>
#include <utility>

namespace streamload {
namespace {

// libcurl's own 16 KiB cost 1.7 × the processor time; from 128 KiB on it is all the same, and these stay in the cache.
constexpr long kReceiveBytes = 256 << 10;
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

int errno_of(CurlCode code, long system_error) noexcept {
  if (code == CurlCode::kOperationTimedOut) return ETIMEDOUT;
  if (system_error != 0) return static_cast<int>(system_error);
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

Transfer::Transfer(std::shared_ptr<const CurlLibrary> curl, CurlEasy* easy, std::shared_ptr<const HttpObject> object,
                   std::shared_ptr<const HttpRequest> request, Scatter& target, const Part& part,
                   const Clock::time_point& now)
    : curl_(std::move(curl)),
      easy_(easy),
      object_(std::move(object)),
      request_(std::move(request)),
      target_(target),
      part_(part),
      now_(now),
      began_(Clock::now()),
      last_byte_(began_),
      position_(part.position) {}

Transfer::~Transfer() { curl_->list_free_all(headers_); }

bool Transfer::add_header(const std::string& line) {
  CurlList* longer = curl_->list_append(headers_, line.c_str());
  if (longer != nullptr) headers_ = longer;
  return longer != nullptr;
}

CurlCode Transfer::prepare() {
  const HttpObject::Facts& facts = object_->facts();
  bool good = add_header("Range: bytes=" + std::to_string(part_.offset) + "-" +
                         std::to_string(part_.offset + part_.nbytes - 1));
  // A weak ETag never matches (RFC 9110, 13.1.1); it is compared with the answer's all the same.
  if (!facts.etag.empty() && !facts.etag.starts_with("W/")) good = good && add_header("If-Match: " + facts.etag);
  for (const std::string& line : request_->headers) good = good && add_header(line);
  if (!good) return CurlCode::kOutOfMemory;
  CurlCode worst = CurlCode::kOk;
  const auto set = [&](CurlOption option, auto value) {
    const CurlCode code = curl_->easy_setopt(easy_, option, value);
    if (code != CurlCode::kOk && worst == CurlCode::kOk) worst = code;
  };
  set(CurlOption::kUrl, request_->url.c_str());
  set(CurlOption::kHttpHeader, headers_);
  set(CurlOption::kPrivate, static_cast<void*>(this));
  set(CurlOption::kErrorBuffer, error_.data());
  set(CurlOption::kHeaderFunction, &Transfer::on_header);
  set(CurlOption::kHeaderData, static_cast<void*>(this));
  set(CurlOption::kWriteFunction, &Transfer::on_body);
  set(CurlOption::kWriteData, static_cast<void*>(this));
  set(CurlOption::kProxy, "");  // or libcurl reads the environment; who wants a proxy, goes another way
  set(CurlOption::kHttpVersion, kCurlHttp11);
  set(CurlOption::kProtocols, kCurlProtocolsHttp);
  set(CurlOption::kBufferSize, kReceiveBytes);
  set(CurlOption::kNoSignal, 1L);
  set(CurlOption::kTcpKeepAlive, 1L);
  const auto connect =
      std::chrono::duration_cast<std::chrono::milliseconds>(from_seconds(facts.policy.connect_seconds));
  set(CurlOption::kConnectTimeoutMs, static_cast<long>(std::max<std::int64_t>(connect.count(), 1)));
  set(CurlOption::kFreshConnect, part_.fresh ? 1L : 0L);
  set(CurlOption::kDnsCacheTimeout, part_.fresh ? 0L : kDnsSeconds);
  set(CurlOption::kSslVerifyPeer, facts.policy.verify_tls ? 1L : 0L);
  set(CurlOption::kSslVerifyHost, facts.policy.verify_tls ? 2L : 0L);
  if (!facts.ca_file.empty()) set(CurlOption::kCaInfo, facts.ca_file.c_str());
  // What an older libcurl does without.
  const CurlCode needed = worst;
  set(CurlOption::kPathAsIs, 1L);  // a signature covers the path as it is
  set(CurlOption::kSuppressConnectHeaders, 1L);
  set(CurlOption::kDnsShuffleAddresses, 1L);
  set(CurlOption::kHttp09Allowed, 0L);
  set(CurlOption::kQuickExit, 1L);  // or a name that is still being looked up is waited for
  return needed;
}

std::size_t Transfer::on_header(char* bytes, std::size_t size, std::size_t count, void* self) noexcept {
  take_header({bytes, size * count}, static_cast<Transfer*>(self)->head_);
  static_cast<Transfer*>(self)->last_byte_ = static_cast<Transfer*>(self)->now_;
  return size * count;
}

std::size_t Transfer::on_body(char* bytes, std::size_t size, std::size_t count, void* self) noexcept {
  const ConstHostSpan body(reinterpret_cast<const std::byte*>(bytes), size * count);
  return static_cast<Transfer*>(self)->take(body);
}

Asked Transfer::asked() const noexcept {
  const HttpObject::Facts& facts = object_->facts();
  return {part_.offset, part_.nbytes, facts.nbytes, facts.etag, part_.whole};
}

void Transfer::judge_body() noexcept {
  judged_ = true;
  judgement_ = judge(head_, asked(), {});
  if (judgement_.answer != Answer::kWhole) return;
  position_ = 0;
}

// Returns how much was taken; less than there is makes libcurl drop the connection.
std::size_t Transfer::take(ConstHostSpan bytes) noexcept {
  last_byte_ = now_;
  if (!brings_bytes(head_.status)) {
    error_bytes_ += bytes.size();
    const std::size_t kept = std::min(bytes.size(), kErrorBytesKept - std::min(error_body_.size(), kErrorBytesKept));
    error_body_.append(reinterpret_cast<const char*>(bytes.data()), kept);
    return error_bytes_ > kErrorBytesRead ? 0 : bytes.size();
  }
  if (!judged_) {
    judge_body();
    target_.seek(position_);
  }
  if (judgement_.answer != Answer::kBytes && judgement_.answer != Answer::kWhole) return 0;
  if (bytes.size() > part_.position + part_.nbytes - position_) {
    overran_ = true;
    return 0;
  }
  target_.write(bytes);
  position_ += bytes.size();
  return bytes.size();
}

std::size_t Transfer::reached() const noexcept {
  return overran_ ? part_.position : std::max(part_.position, position_);
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
    const char* location = nullptr;
    curl_->easy_getinfo(easy_, CurlInfo::kRedirectUrl, &location);
    if (location != nullptr) end.location = location;
  } else if (end.answer == Answer::kBytes || end.answer == Answer::kWhole) {  // a good head, and nothing behind it
    return end_of_bytes(code);
  }
  return end;
}

TransferEnd Transfer::end_of_bytes(CurlCode code) const {
  if (overran_) return {.answer = Answer::kStrange, .error = EIO, .text = "the body is longer than the range"};
  if (position_ == part_.position + part_.nbytes) return {.answer = Answer::kBytes, .complete = true};
  if (code != CurlCode::kOk && code != CurlCode::kPartialFile) return end_of_connection(code);
  return {.answer = Answer::kRetry,
          .fell_short = true,
          .text = "the body ended after " + std::to_string(position_ - std::min(position_, part_.position)) + " of " +
                  std::to_string(part_.nbytes) + " bytes"};
}

TransferEnd Transfer::end_of_connection(CurlCode code) const {
  std::string text = error_[0] != '\0' ? error_.data() : curl_->easy_strerror(code);
  text.resize(std::min(text.size(), text.find('?')));  // whatever libcurl may quote, no query string gets out
  long system_error = 0;
  curl_->easy_getinfo(easy_, CurlInfo::kOsErrno, &system_error);
  TransferEnd end{.answer = Answer::kRetry, .error = errno_of(code, system_error), .text = std::move(text)};
  end.fell_short = code == CurlCode::kPartialFile;
  if (code == CurlCode::kUnsupportedProtocol) end.answer = Answer::kStrange;  // an answer that is no HTTP
  if (code == CurlCode::kUrlMalformat || code == CurlCode::kOutOfMemory || is_certificate_error(code)) {
    end.answer = Answer::kFailed;
  }
  if (is_certificate_error(code)) end.error = EPROTO;
  return end;
}

}  // namespace streamload
