// One request for a range, from its first header to its last byte, and what came of it.
//
// Belongs to the thread of one loop, which also runs libcurl's callbacks. Bytes are written only once the head of the
// answer was judged, and never more than were asked for.
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <string>

#include "http/curl_library.hpp"
#include "http/http_object.hpp"
#include "http/response.hpp"
#include "http/scatter.hpp"

namespace streamload {

// How a transfer ended, or why it was ended.
struct TransferEnd {
  Answer answer = Answer::kFailed;
  bool complete = false;      // every byte is in its place
  bool fell_short = false;    // the body ended before its end
  int error = 0;              // errno
  std::string text = {};      // of all but a complete one
  double retry_after = 0;     // seconds
  std::string location = {};  // of a redirect, absolute
};

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

  // `now` is the loop's clock, read when bytes come.
  Transfer(std::shared_ptr<const CurlLibrary> curl, CurlEasy* easy, std::shared_ptr<const HttpObject> object,
           std::shared_ptr<const HttpRequest> request, Scatter& target, const Part& part, const Clock::time_point& now);
  Transfer(const Transfer&) = delete;
  Transfer& operator=(const Transfer&) = delete;
  ~Transfer();

  // Sets the handle up; it is the caller's to hand to libcurl then.
  [[nodiscard]] CurlCode prepare();

  [[nodiscard]] CurlEasy* easy() const noexcept { return easy_; }
  [[nodiscard]] const Part& part() const noexcept { return part_; }
  [[nodiscard]] Clock::time_point began() const noexcept { return began_; }
  [[nodiscard]] Clock::time_point last_byte() const noexcept { return last_byte_; }  // when it began, at first
  // How far the target is filled with bytes that are believed, from its start.
  [[nodiscard]] std::size_t reached() const noexcept;
  [[nodiscard]] int status() const noexcept { return head_.status; }
  // Once libcurl is done with it.
  [[nodiscard]] TransferEnd end(CurlCode code) const;

 private:
  static std::size_t on_header(char* bytes, std::size_t size, std::size_t count, void* self) noexcept;
  static std::size_t on_body(char* bytes, std::size_t size, std::size_t count, void* self) noexcept;
  [[nodiscard]] std::size_t take(ConstHostSpan bytes) noexcept;
  [[nodiscard]] bool add_header(const std::string& line);
  [[nodiscard]] Asked asked() const noexcept;
  void judge_body() noexcept;
  [[nodiscard]] TransferEnd end_of_bytes(CurlCode code) const;
  [[nodiscard]] TransferEnd end_of_connection(CurlCode code) const;

  const std::shared_ptr<const CurlLibrary> curl_;
  CurlEasy* const easy_;
  const std::shared_ptr<const HttpObject> object_;
  const std::shared_ptr<const HttpRequest> request_;
  Scatter& target_;
  const Part part_;
  const Clock::time_point& now_;
  const Clock::time_point began_;

  Clock::time_point last_byte_;
  CurlList* headers_ = nullptr;
  std::array<char, kCurlErrorSize> error_{};
  ResponseHead head_;
  bool judged_ = false;
  Judgement judgement_;       // of a head with bytes behind it
  std::size_t position_ = 0;  // in the target, of the next byte
  bool overran_ = false;
  std::string error_body_;
  std::size_t error_bytes_ = 0;
};

}  // namespace streamload
