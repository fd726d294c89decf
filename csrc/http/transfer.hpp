// One request for a range, from its first header to its last byte, and what came of it.
//
// Belongs to the thread of one loop. Bytes are written only once the head of the answer was judged, and never more than
// were asked for. Two kinds: through libcurl (curl_transfer.hpp), and over a connection without TLS, straight into
// place (plain_transfer.hpp).
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "http/connections.hpp"
#include "http/http_object.hpp"
#include "http/response.hpp"
#include "http/scatter.hpp"

namespace streamload {

// How a transfer ended, or why it was ended.
struct TransferEnd {
  Answer answer = Answer::kFailed;
  bool complete = false;      // every byte is in its place
  bool fell_short = false;    // the body ended before its end
  bool stale = false;         // the connection had ended while it was idle: nobody has seen the request
  int error = 0;              // errno
  std::string text = {};      // of all but a complete one
  double retry_after = 0;     // seconds
  std::string location = {};  // of a redirect, absolute
};

// Fewer bytes are no progress: a server that drips would else hold a load up for ever.
inline constexpr std::size_t kLeastProgress = 1 << 10;

class Transfer {
 public:
  using Clock = std::chrono::steady_clock;

  struct Part {
    std::uint64_t offset = 0;  // in the object
    std::size_t nbytes = 0;
    std::size_t position = 0;  // in the target, of its first byte
    bool whole = false;        // the target takes the whole object
    bool fresh = false;        // connect anew, and look up the name again
  };
  struct What {
    std::shared_ptr<const HttpObject> object;
    std::shared_ptr<const HttpRequest> request;
    Scatter& target;
    Part part;
  };

  // `now` is the loop's clock, read when bytes come.
  [[nodiscard]] static std::unique_ptr<Transfer> make(Connections& connections, What what,
                                                      const Clock::time_point& now);
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;
  // Takes from libcurl and the kernel what they may still write to.
  virtual ~Transfer() = default;

  // These say with what the transfer has ended, unless it goes on. It begins; libcurl is done with its handle; its
  // socket is ready.
  [[nodiscard]] virtual std::optional<CurlCode> start() = 0;
  [[nodiscard]] virtual std::optional<CurlCode> on_message(CurlCode code) = 0;
  [[nodiscard]] virtual std::optional<CurlCode> on_ready() { return {}; }

  [[nodiscard]] const Part& part() const noexcept { return what_.part; }
  [[nodiscard]] Clock::time_point began() const noexcept { return began_; }
  // When so much more had come that one does not speak of a stall: a head, or 1 KiB. At first when it began.
  [[nodiscard]] Clock::time_point progress() const noexcept { return progress_; }
  [[nodiscard]] bool drips() const noexcept { return position_ > progress_position_; }  // something came since
  // How far the target is filled with bytes that are believed, from its start.
  [[nodiscard]] std::size_t reached() const noexcept;
  [[nodiscard]] int status() const noexcept { return head_.status; }
  // Once it has ended so.
  [[nodiscard]] TransferEnd end(CurlCode code) const;

 protected:
  Transfer(Connections& connections, What what, const Clock::time_point& now);

  // The lines that the request has besides its first and Host.
  [[nodiscard]] std::vector<std::string> request_lines() const;
  // Gives a handle what both kinds have in common; false where libcurl lacks something that cannot be done without.
  [[nodiscard]] bool prepare_to_connect(CurlEasy* easy, const std::string& url);

  // Judges the head once it is complete: whether the body's bytes are wanted, as the object's or as an error's text.
  [[nodiscard]] bool believes() noexcept;
  // Returns how much was taken: less than there is ends the transfer.
  [[nodiscard]] std::size_t take(ConstHostSpan body) noexcept;
  // Or in place: whether there is room for bytes that are believed, and a note that so many came.
  [[nodiscard]] bool believed() const noexcept { return judged_; }
  [[nodiscard]] std::size_t room() const noexcept { return what_.part.position + what_.part.nbytes - position_; }
  void note(std::size_t nbytes) noexcept;
  void overrun() noexcept { overran_ = true; }

  [[nodiscard]] CurlCode failed(CurlCode code, const std::string& why);

  [[nodiscard]] virtual int system_error() const = 0;          // of a connection that failed
  [[nodiscard]] virtual std::string redirect_url() const = 0;  // absolute; empty where there is none

  Connections& connections_;
  const What what_;
  const Clock::time_point& now_;
  ResponseHead head_;
  std::array<char, kCurlErrorSize> error_text_{};
  bool stale_ = false;

 private:
  [[nodiscard]] Asked asked() const noexcept;
  [[nodiscard]] TransferEnd end_of_bytes(CurlCode code) const;
  [[nodiscard]] TransferEnd end_of_connection(CurlCode code) const;

  const Clock::time_point began_;
  Clock::time_point progress_;
  std::size_t progress_position_ = 0;
  bool judged_ = false;
  Judgement judgement_;       // of a head with bytes behind it
  std::size_t position_ = 0;  // in the target, of the next byte
  bool overran_ = false;
  std::string error_body_;
  std::size_t error_bytes_ = 0;
};

}  // namespace streamload
