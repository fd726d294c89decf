// What the tests of remote objects share: an HTTP server in this process that does what a script says, right or wrong,
// and a client that is quick to lose patience.
//
// The object that it serves is the pattern of scratch.hpp. Each connection has a thread; nothing sleeps: a reply that
// stalls does so until the peer hangs up or the server ends.
#pragma once

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "check.hpp"
#include "core/unique_fd.hpp"
#include "http/http_source.hpp"
#include "scratch.hpp"

namespace streamload {

inline constexpr std::size_t kAll = ~std::size_t{0};
inline constexpr std::uint64_t kObjectBytes = 1'000'003;
inline constexpr const char* kEtag = "\"one\"";

struct ServedRequest {
  std::string target;
  std::map<std::string, std::string> headers;  // names in lower case
  std::uint64_t first = 0;
  std::uint64_t last = 0;
  std::size_t number = 0;  // of the request, from 0 on
  [[nodiscard]] std::size_t nbytes() const { return last - first + 1; }
};

struct Reply {
  enum class End : std::uint8_t { kKeep, kClose, kReset, kStall };

  int status = 206;
  std::vector<std::string> headers;  // besides those that make the message
  std::vector<std::byte> body;
  std::size_t content_length = kAll;  // other than the body's
  bool silent = false;                // no head, no body: only the end
  std::string raw = {};               // instead of head and body: these bytes
  std::string drip = {};              // behind those, one each hundredth of a second, over and over
  std::size_t cut = kAll;             // bytes of the body that are sent before the end
  End end = End::kKeep;
  std::function<void()> at_cut;  // called when these are sent
};

// What a good server answers.
inline Reply good_reply(const ServedRequest& request, std::uint64_t total = kObjectBytes) {
  Reply reply;
  reply.headers = {"Content-Range: bytes " + std::to_string(request.first) + "-" + std::to_string(request.last) + "/" +
                       std::to_string(total),
                   std::string("ETag: ") + kEtag};
  reply.body = pattern(request.first, request.nbytes());
  return reply;
}
inline Reply status_reply(int status, std::vector<std::string> headers = {}, const std::string& body = {}) {
  Reply reply{.status = status, .headers = std::move(headers), .body = {}, .at_cut = {}};
  for (const char c : body) reply.body.push_back(static_cast<std::byte>(c));
  return reply;
}

class HttpServer {
 public:
  using Script = std::function<Reply(const ServedRequest&)>;

  explicit HttpServer(Script script) : script_(std::move(script)) {
    listener_ = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* generic = reinterpret_cast<sockaddr*>(&address);
    if (::bind(listener_.get(), generic, size) != 0 || ::listen(listener_.get(), 128) != 0) std::abort();
    ::getsockname(listener_.get(), generic, &size);
    port_ = ntohs(address.sin_port);
    acceptor_ = std::thread([this] { accept(); });
  }
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;
  ~HttpServer() {
    ending_ = true;
    ::shutdown(listener_.get(), SHUT_RDWR);
    acceptor_.join();
    {
      const std::lock_guard lock(mutex_);
      for (const int socket : sockets_) ::shutdown(socket, SHUT_RDWR);
    }
    for (std::thread& thread : threads_) thread.join();
  }

  [[nodiscard]] std::string url(const std::string& target = "/object?signature=SECRET") const {
    return "http://127.0.0.1:" + std::to_string(port_) + target;
  }
  [[nodiscard]] std::vector<ServedRequest> log() const {
    const std::lock_guard lock(mutex_);
    return log_;
  }
  [[nodiscard]] std::size_t connections() const {
    const std::lock_guard lock(mutex_);
    return threads_.size();
  }

 private:
  void accept() {
    while (!ending_) {
      UniqueFd socket(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
      if (!socket) continue;
      const std::lock_guard lock(mutex_);
      sockets_.push_back(socket.get());
      threads_.emplace_back([this, open = std::move(socket)]() mutable { serve(std::move(open)); });
    }
  }

  void serve(UniqueFd socket) {
    std::string text;
    while (read_head(socket.get(), text)) {
      const Reply reply = script_(note(text));
      text.clear();
      if (!send_reply(socket.get(), reply)) break;
    }
    const std::lock_guard lock(mutex_);
    std::erase(sockets_, socket.get());
    socket = UniqueFd();
  }

  static bool read_head(int socket, std::string& text) {
    while (text.find("\r\n\r\n") == std::string::npos) {
      char bytes[4096];
      const ssize_t got = ::recv(socket, bytes, sizeof bytes, 0);
      if (got <= 0) return false;
      text.append(bytes, static_cast<std::size_t>(got));
    }
    return true;
  }

  ServedRequest note(const std::string& text) {
    ServedRequest request;
    const std::size_t start = text.find(' ') + 1;
    request.target = text.substr(start, text.find(' ', start) - start);
    for (std::size_t at = text.find("\r\n") + 2; at < text.size();) {
      const std::size_t end = text.find("\r\n", at);
      const std::string line = text.substr(at, end - at);
      at = end + 2;
      const std::size_t colon = line.find(": ");
      if (colon == std::string::npos) continue;
      std::string name = line.substr(0, colon);
      std::transform(name.begin(), name.end(), name.begin(), [](char c) { return static_cast<char>(::tolower(c)); });
      request.headers[name] = line.substr(colon + 2);
    }
    if (const auto range = request.headers.find("range"); range != request.headers.end()) {
      const std::string& value = range->second;  // "bytes=a-b"
      const std::size_t dash = value.find('-');
      request.first = std::stoull(value.substr(6, dash - 6));
      request.last = std::stoull(value.substr(dash + 1));
    }
    const std::lock_guard lock(mutex_);
    request.number = log_.size();
    log_.push_back(request);
    return request;
  }

  bool send_reply(int socket, const Reply& reply) {
    if (!reply.raw.empty()) {
      if (!send_all(socket, reply.raw.data(), reply.raw.size())) return false;
      for (std::size_t i = 0; !reply.drip.empty(); ++i) {
        if (hung_up(socket) || !send_all(socket, &reply.drip[i % reply.drip.size()], 1)) return false;
      }
    } else if (!reply.silent) {
      std::string head = "HTTP/1.1 " + std::to_string(reply.status) + " Said\r\n";
      for (const std::string& line : reply.headers) head += line + "\r\n";
      const std::size_t length = reply.content_length == kAll ? reply.body.size() : reply.content_length;
      head += "Content-Length: " + std::to_string(length) + "\r\n\r\n";
      if (!send_all(socket, head.data(), head.size())) return false;
      if (!send_all(socket, reply.body.data(), std::min(reply.cut, reply.body.size()))) return false;
    }
    if (reply.at_cut) reply.at_cut();
    switch (reply.end) {
      case Reply::End::kKeep: return reply.cut >= reply.body.size();
      case Reply::End::kClose: return false;
      case Reply::End::kStall: wait_for_hangup(socket); return false;
      case Reply::End::kReset: {
        const linger none{1, 0};
        ::setsockopt(socket, SOL_SOCKET, SO_LINGER, &none, sizeof none);
        return false;
      }
    }
    return false;
  }

  static bool send_all(int socket, const void* bytes, std::size_t nbytes) {
    const auto* at = static_cast<const char*>(bytes);
    while (nbytes > 0) {
      const ssize_t sent = ::send(socket, at, nbytes, MSG_NOSIGNAL);
      if (sent <= 0) return false;
      at += sent;
      nbytes -= static_cast<std::size_t>(sent);
    }
    return true;
  }

  // Waits for it a hundredth of a second.
  static bool hung_up(int socket) {
    pollfd ended{socket, POLLRDHUP, 0};
    return ::poll(&ended, 1, 10) != 0;
  }

  static void wait_for_hangup(int socket) {
    char byte = 0;
    while (::recv(socket, &byte, 1, 0) > 0) {
    }
  }

  const Script script_;
  UniqueFd listener_;
  std::uint16_t port_ = 0;
  std::atomic<bool> ending_{false};
  mutable std::mutex mutex_;  // guards the three below
  std::vector<int> sockets_;
  std::vector<std::thread> threads_;
  std::vector<ServedRequest> log_;
  std::thread acceptor_;
};

// Whether the tests that need libcurl can run; says so where they cannot.
inline bool has_libcurl() {
  std::shared_ptr<const CurlLibrary> curl;
  const Status status = CurlLibrary::load("libcurl.so.4", curl);
  if (!status.ok()) std::printf("skipped: %s\n", status.text.c_str());
  return status.ok();
}

// Connections without TLS are taken over from libcurl, unless this program is built to try the other way.
inline HttpClientOptions usual_options() {
  HttpClientOptions options;
#ifdef STREAMLOAD_TEST_BY_LIBCURL
  options.take_over = false;
#endif
  return options;
}

// Tries again at once, and waits long enough for what does come.
inline RetryPolicy hasty() {
  RetryPolicy policy;
  policy.connect_seconds = 20;
  policy.stall_seconds = 20;
  policy.retry_seconds = 20;
  policy.first_backoff_seconds = 0.005;
  policy.most_backoff_seconds = 0.02;
  policy.hedge = false;
  return policy;
}

// For servers that stall.
inline RetryPolicy impatient() {
  RetryPolicy policy = hasty();
  policy.stall_seconds = 0.3;
  return policy;
}

// A server, a client and the source between them.
struct Remote {
  HttpServer server;
  std::shared_ptr<HttpClient> client;
  std::shared_ptr<Source> source;

  explicit Remote(HttpServer::Script script, const RetryPolicy& policy = hasty(), HttpObject::Renew renew = nullptr,
                  std::vector<std::string> headers = {}, HttpClientOptions options = usual_options())
      : server(std::move(script)) {
    throw_if_error(HttpClient::make(options, client));
    source = open(policy, std::move(renew), std::move(headers));
  }
  std::shared_ptr<Source> open(const RetryPolicy& policy, HttpObject::Renew renew, std::vector<std::string> headers,
                               std::uint64_t nbytes = kObjectBytes) {
    std::shared_ptr<Source> opened;
    throw_if_error(HttpSource::make(client, {"http://bucket/object", nbytes, kEtag, "", policy},
                                    {server.url(), std::move(headers)}, std::move(renew), opened));
    return opened;
  }
};

// One fetch, waited for. Its memory is in pieces and has a margin that must stay as it is.
struct Fetched {
  Status status;
  FetchCounts counts;
  std::vector<std::byte> bytes;
  bool margin_kept = true;

  Fetched(Source& source, std::uint64_t offset, std::size_t nbytes, std::stop_token stop = {}) : bytes(nbytes + 64) {
    std::fill(bytes.begin(), bytes.end(), std::byte{0xA5});
    const std::size_t third = nbytes / 3;
    const HostSpan room = HostSpan(bytes).first(nbytes);
    std::promise<void> done;
    source.fetch(offset, {room.first(third), room.subspan(third, third), room.subspan(2 * third)}, std::move(stop),
                 [&](Status outcome, const FetchCounts& took) {
                   status = std::move(outcome);
                   counts = took;
                   done.set_value();
                 });
    done.get_future().wait();
    margin_kept = std::all_of(bytes.begin() + static_cast<std::ptrdiff_t>(nbytes), bytes.end(),
                              [](std::byte b) { return b == std::byte{0xA5}; });
    bytes.resize(nbytes);
  }
  [[nodiscard]] bool holds(std::uint64_t offset) const { return bytes == pattern(offset, bytes.size()); }
};

}  // namespace streamload
