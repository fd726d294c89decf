#include "http/raw_client.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "core/signals_blocked.hpp"
#include "core/thread_cpu.hpp"
#include "core/unique_fd.hpp"
#include "http/response.hpp"
#include "io/interrupted.hpp"

namespace streamload {
namespace {

constexpr std::size_t kBufferBytes = 512 << 10;

Status failed(const RawAddress& address, const std::string& what, int error = 0) {
  std::string text = "http://" + address.host + ":" + std::to_string(address.port) + ": " + what;
  if (error != 0) text += ": " + std::system_category().message(error);
  return Status::failure(Code::kReadFailed, std::move(text), error);
}

struct FreeAddresses {
  void operator()(addrinfo* list) const noexcept { ::freeaddrinfo(list); }
};

class RawConnection {
 public:
  RawConnection(const RawAddress& address, std::vector<char>& buffer) : address_(address), buffer_(buffer) {}

  [[nodiscard]] Status open() {
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    addrinfo* list = nullptr;
    if (::getaddrinfo(address_.host.c_str(), std::to_string(address_.port).c_str(), &hints, &list) != 0) {
      return failed(address_, "no such host");
    }
    const std::unique_ptr<addrinfo, FreeAddresses> found(list);
    socket_ = UniqueFd(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!socket_ || ::connect(socket_.get(), found->ai_addr, found->ai_addrlen) != 0) {
      return failed(address_, "connect", errno);
    }
    const int on = 1;
    ::setsockopt(socket_.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return {};
  }

  [[nodiscard]] Status read(RawRange range) {
    const std::string request = "GET " + address_.path + " HTTP/1.1\r\nHost: " + address_.host +
                                "\r\nRange: bytes=" + std::to_string(range.first) + "-" +
                                std::to_string(range.first + range.second - 1) + "\r\n\r\n";
    if (::send(socket_.get(), request.data(), request.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(request.size())) {
      return failed(address_, "send", errno);
    }
    std::size_t body = 0;  // bytes that came with the head
    if (Status status = read_head(range, body); !status.ok()) return status;
    for (std::uint64_t left = range.second - std::min<std::uint64_t>(body, range.second); left > 0;) {
      const std::size_t wanted = std::min<std::uint64_t>(left, buffer_.size());
      const ssize_t got = receive(buffer_.data(), wanted);
      if (got <= 0) return failed(address_, "the body ended early", got < 0 ? errno : 0);
      left -= static_cast<std::uint64_t>(got);
    }
    return {};
  }

 private:
  [[nodiscard]] ssize_t receive(char* to, std::size_t nbytes) {
    return retry_interrupted([&] { return ::recv(socket_.get(), to, nbytes, 0); });
  }

  [[nodiscard]] Status read_head(RawRange range, std::size_t& body) {
    std::size_t filled = 0;
    std::size_t end = std::string_view::npos;
    while (end == std::string_view::npos) {
      const ssize_t got = receive(buffer_.data() + filled, std::min<std::size_t>(buffer_.size() - filled, 4096));
      if (got <= 0) return failed(address_, "the head of the answer ended early", got < 0 ? errno : 0);
      filled += static_cast<std::size_t>(got);
      end = std::string_view(buffer_.data(), filled).find("\r\n\r\n");
    }
    ResponseHead head;
    std::string_view lines(buffer_.data(), end);
    while (!lines.empty()) {
      const std::size_t stop = std::min(lines.find('\n'), lines.size() - 1);
      take_header(lines.substr(0, stop + 1), head);
      lines.remove_prefix(stop + 1);
    }
    if (head.status != 206 || head.content_length != range.second) {
      return failed(address_, "answered with status " + std::to_string(head.status) + ", expected 206 with " +
                                  std::to_string(range.second) + " bytes");
    }
    body = filled - end - 4;
    return {};
  }

  const RawAddress& address_;
  std::vector<char>& buffer_;
  UniqueFd socket_;
};

}  // namespace

Status measure_raw_http(const RawAddress& address, const std::vector<RawRange>& ranges, std::size_t connections,
                        int repeats, std::vector<std::pair<double, double>>& seconds) {
  using Clock = std::chrono::steady_clock;
  std::vector<std::vector<char>> buffers(connections, std::vector<char>(kBufferBytes));
  for (int i = 0; i < repeats; ++i) {
    std::atomic<std::size_t> next{0};
    std::mutex mutex;  // guards the two below
    Status failure;
    double cpu = 0;
    const auto work = [&](std::vector<char>& buffer) noexcept {
      RawConnection connection(address, buffer);
      Status status = connection.open();
      for (std::size_t k = next++; k < ranges.size() && status.ok(); k = next++) status = connection.read(ranges[k]);
      const double spent = thread_cpu_seconds();
      const std::lock_guard lock(mutex);
      cpu += spent;
      if (!status.ok()) failure = std::move(status);
    };
    const auto began = Clock::now();
    {
      const SignalsBlocked blocked;
      std::vector<std::jthread> threads;
      threads.reserve(buffers.size());
      for (auto& buffer : buffers) threads.emplace_back([&work, &buffer] { work(buffer); });
    }
    if (!failure.ok()) return failure;
    seconds.emplace_back(std::chrono::duration<double>(Clock::now() - began).count(), cpu);
  }
  return {};
}

}  // namespace streamload
