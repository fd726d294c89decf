#include "http/plain_transfer.hpp"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <span>
#include <system_error>
#include <utility>

#include "io/interrupted.hpp"

namespace streamload {
namespace {

constexpr std::string_view kScheme = "http://";
constexpr std::size_t kFramedBytes = 4 << 10;      // received at once where there is more than body
constexpr std::size_t kMostHeadBytes = 256 << 10;  // about what libcurl takes
constexpr std::size_t kMostPieces = 16;
constexpr std::size_t kMostInARow = 4 << 20;  // then it is others' turn
// The kernel wakes nobody for less, unless it is all that is left to come.
constexpr std::uint64_t kLowWater = 256 << 10;

bool would_block(int error) noexcept { return error == EAGAIN || error == EWOULDBLOCK; }

}  // namespace

bool PlainTransfer::takes(const CurlLibrary& curl, const std::string& url) {
  if (!curl.has_urls() || !url.starts_with(kScheme)) return false;
  if (url.substr(0, url.find_first_of("/?#", kScheme.size())).find('@') != std::string::npos) return false;
  return std::all_of(url.begin(), url.end(), [](char c) { return c > ' ' && c <= '~'; });
}

PlainTransfer::PlainTransfer(Connections& connections, What what, const Clock::time_point& now)
    : Transfer(connections, std::move(what), now), origin_(origin_of(what_.request->url)) {}

PlainTransfer::~PlainTransfer() {
  if (easy_ != nullptr) connections_.give_back(easy_);
  if (reusable_) {
    connections_.keep_idle(std::move(socket_), origin_);
  } else {
    connections_.close(std::move(socket_));
  }
}

std::string PlainTransfer::request_text() const {
  const std::string& url = what_.request->url;
  const std::size_t path = std::min(url.find_first_of("/?#", kScheme.size()), url.size());
  std::string target = url.substr(path, url.find('#') - path);
  if (!target.starts_with('/')) target.insert(0, 1, '/');
  constexpr std::string_view kUsualPort = ":80";
  std::string host = url.substr(kScheme.size(), path - kScheme.size());  // as it is: it may be signed
  if (host.ends_with(kUsualPort)) host.resize(host.size() - kUsualPort.size());
  std::string text = "GET " + target + " HTTP/1.1\r\nHost: " + host + "\r\nAccept: */*\r\n";
  for (const std::string& line : request_lines()) text += line + "\r\n";
  return text + "\r\n";
}

std::optional<CurlCode> PlainTransfer::start() {
  request_ = request_text();
  UniqueFd idle = what_.part.fresh ? UniqueFd() : connections_.take_idle(origin_);
  if (idle) {
    used_before_ = true;
    return use(std::move(idle));
  }
  easy_ = connections_.take_easy();
  if (easy_ == nullptr || !prepare_to_connect(easy_, origin_) ||
      connections_.curl().easy_setopt(easy_, CurlOption::kConnectOnly, 1L) != CurlCode::kOk ||
      !connections_.start(easy_)) {
    return failed(CurlCode::kOutOfMemory, "libcurl refuses to connect");
  }
  return {};
}

// The connection stands, or it could not be made.
std::optional<CurlCode> PlainTransfer::on_message(CurlCode code) {
  if (code != CurlCode::kOk) return code;
  CurlSocket connected = -1;
  connections_.curl().easy_getinfo(easy_, CurlInfo::kActiveSocket, &connected);
  // libcurl closes its own descriptor together with the handle's connection; this one stays.
  UniqueFd socket(connected < 0 ? -1 : ::fcntl(connected, F_DUPFD_CLOEXEC, 0));
  const int error = errno;
  connections_.give_back(std::exchange(easy_, nullptr));
  if (socket) return use(std::move(socket));
  error_ = error;
  return failed(CurlCode::kCouldntConnect, "libcurl's connection could not be taken over");
}

std::optional<CurlCode> PlainTransfer::use(UniqueFd socket) {
  error_text_[0] = '\0';  // libcurl may have tried another address before
  socket_ = std::move(socket);
  connections_.watch(socket_, *this, false);
  return send();
}

std::optional<CurlCode> PlainTransfer::send() {
  while (sent_ < request_.size()) {
    const std::string_view rest = std::string_view(request_).substr(sent_);
    const ssize_t sent =
        retry_interrupted([&] { return ::send(socket_.get(), rest.data(), rest.size(), MSG_NOSIGNAL | MSG_DONTWAIT); });
    if (sent < 0 && would_block(errno)) {
      connections_.watch(socket_, *this, waits_for_room_ = true);
      return {};
    }
    if (sent < 0) return gone(errno);
    sent_ += static_cast<std::size_t>(sent);
  }
  if (std::exchange(waits_for_room_, false)) connections_.watch(socket_, *this, false);
  return {};
}

std::optional<CurlCode> PlainTransfer::on_ready() {
  if (socket_ && sent_ < request_.size()) {
    if (const auto code = send()) return code;
  }
  bool drained = false;
  const std::uint64_t until = received_ + kMostInARow;
  while (socket_ && !drained && received_ < until) {
    const bool in_place = head_complete_ && believed() && frames_.ahead() > 0 && room() > 0;
    if (const auto code = in_place ? receive_in_place(drained) : receive_framed(drained)) return code;
  }
  return {};
}

std::optional<CurlCode> PlainTransfer::receive_in_place(bool& drained) {
  std::array<iovec, kMostPieces> pieces;  // NOLINT(cppcoreguidelines-pro-type-member-init): as many as are filled
  const auto most = static_cast<std::size_t>(std::min<std::uint64_t>(frames_.ahead(), room()));
  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = what_.target.rooms(most, pieces);
  const ssize_t got = retry_interrupted([&] { return ::recvmsg(socket_.get(), &message, MSG_DONTWAIT); });
  if (got <= 0) return nothing_came(got, drained);
  const auto nbytes = static_cast<std::size_t>(got);
  received_ += nbytes;
  what_.target.pass(nbytes);
  note(nbytes);
  frames_.pass(nbytes);
  set_low_water(std::min<std::uint64_t>(frames_.ahead(), room()));
  if (frames_.ended()) {
    reusable_ = !head_.closes;
    return CurlCode::kOk;
  }
  std::size_t asked = 0;
  for (const iovec& piece : std::span(pieces).first(message.msg_iovlen)) asked += piece.iov_len;
  drained = nbytes < asked;
  return {};
}

std::optional<CurlCode> PlainTransfer::receive_framed(bool& drained) {
  std::array<char, kFramedBytes> bytes;  // NOLINT(cppcoreguidelines-pro-type-member-init): as far as it is filled
  const ssize_t got =
      retry_interrupted([&] { return ::recv(socket_.get(), bytes.data(), bytes.size(), MSG_DONTWAIT); });
  if (got <= 0) return nothing_came(got, drained);
  const auto nbytes = static_cast<std::size_t>(got);
  received_ += nbytes;
  drained = nbytes < bytes.size();
  return take_bytes({bytes.data(), nbytes});
}

// For now, or any more: `got` is what the system call said.
std::optional<CurlCode> PlainTransfer::nothing_came(ssize_t got, bool& drained) {
  drained = got < 0 && would_block(errno);
  if (drained) return {};
  return gone(got < 0 ? errno : 0);
}

std::optional<CurlCode> PlainTransfer::take_bytes(std::string_view bytes) {
  while (!bytes.empty() && !(head_complete_ && frames_.ended())) {
    std::size_t taken = 0;
    if (!head_complete_) {
      taken = take_head(bytes);
      if (!speaks_http()) return failed(CurlCode::kUnsupportedProtocol, "the answer is not HTTP");
      if (head_bytes_ > kMostHeadBytes) return failed(CurlCode::kRecvError, "the head of the answer has no end");
      // What is not wanted is not received.
      if (head_complete_ && !believes()) return CurlCode::kWriteError;
    } else if (frames_.ahead() > 0) {
      const auto body =
          bytes.substr(0, static_cast<std::size_t>(std::min<std::uint64_t>(bytes.size(), frames_.ahead())));
      taken = take({reinterpret_cast<const std::byte*>(body.data()), body.size()});
      frames_.pass(taken);
      if (taken < body.size()) return CurlCode::kWriteError;
    } else {
      taken = frames_.take(bytes);
      if (frames_.broken()) return failed(CurlCode::kRecvError, "the chunks of the answer are malformed");
    }
    bytes.remove_prefix(taken);
  }
  if (!head_complete_ || !frames_.ended()) return {};
  reusable_ = bytes.empty() && !head_.closes;  // with more behind it, nobody knows what the next answer is
  return CurlCode::kOk;
}

// Takes one line of the head, or what there is of it.
std::size_t PlainTransfer::take_head(std::string_view bytes) {
  const std::size_t end = bytes.find('\n');
  const std::size_t taken = end == std::string_view::npos ? bytes.size() : end + 1;
  head_bytes_ += taken;
  line_ += bytes.substr(0, taken);
  if (end == std::string_view::npos) return taken;
  const std::string line = std::exchange(line_, {});
  if (line != "\r\n" && line != "\n") {
    take_header(line, head_);
    return taken;
  }
  constexpr int kInformational = 199;  // at most: another head follows
  if (head_.status > kInformational) {
    head_complete_ = true;
    frames_ = BodyFrames(head_);
  }
  return taken;
}

bool PlainTransfer::speaks_http() const noexcept {
  constexpr std::string_view kVersion = "HTTP/1.";
  if (head_.status != 0) return true;
  return head_bytes_ == line_.size() && line_.substr(0, kVersion.size()) == kVersion.substr(0, line_.size());
}

// The connection has ended, with an error or just so.
CurlCode PlainTransfer::gone(int error) {
  connections_.close(std::move(socket_));
  stale_ = used_before_ && head_bytes_ == 0;
  error_ = error;
  if (error != 0) return failed(CurlCode::kRecvError, std::system_category().message(error));
  if (head_bytes_ == 0) return failed(CurlCode::kGotNothing, "the server closed the connection without an answer");
  if (!head_complete_) return failed(CurlCode::kRecvError, "the head of the answer ended early");
  return frames_.ends_with_connection() ? CurlCode::kOk : CurlCode::kPartialFile;
}

void PlainTransfer::set_low_water(std::uint64_t next) noexcept {
  const int wanted = static_cast<int>(std::clamp<std::uint64_t>(next, 1, kLowWater));
  if (wanted == low_water_) return;
  low_water_ = wanted;
  ::setsockopt(socket_.get(), SOL_SOCKET, SO_RCVLOWAT, &wanted, sizeof wanted);
}

int PlainTransfer::system_error() const {
  if (easy_ == nullptr) return error_;
  long error = 0;
  connections_.curl().easy_getinfo(easy_, CurlInfo::kOsErrno, &error);
  return static_cast<int>(error);
}

std::string PlainTransfer::redirect_url() const {
  return connections_.curl().resolve(what_.request->url, head_.location);
}

}  // namespace streamload
