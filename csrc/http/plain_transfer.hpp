// A transfer over a connection without TLS: libcurl connects, and the body goes from the kernel straight into its
// place.
//
// libcurl receives into a buffer of its own, and what it calls then has to copy: half as much work again as receiving.
#pragma once

#include <sys/types.h>

#include "core/unique_fd.hpp"
#include "http/body_frames.hpp"
#include "http/transfer.hpp"

namespace streamload {

class PlainTransfer final : public Transfer {
 public:
  // Whether such a URL can be asked for so; everything else is libcurl's: TLS, passwords within a URL, odd characters.
  [[nodiscard]] static bool takes(const CurlLibrary& curl, const std::string& url);

  PlainTransfer(Connections& connections, What what, const Clock::time_point& now);
  PlainTransfer(const PlainTransfer&) = delete;
  PlainTransfer& operator=(const PlainTransfer&) = delete;
  ~PlainTransfer() override;

  [[nodiscard]] std::optional<CurlCode> start() override;
  [[nodiscard]] std::optional<CurlCode> on_message(CurlCode code) override;
  [[nodiscard]] std::optional<CurlCode> on_ready() override;

 private:
  [[nodiscard]] std::string request_text() const;
  [[nodiscard]] std::optional<CurlCode> use(UniqueFd socket);
  [[nodiscard]] std::optional<CurlCode> send();
  // `drained`: there is no more for now.
  [[nodiscard]] std::optional<CurlCode> receive_in_place(bool& drained);
  [[nodiscard]] std::optional<CurlCode> receive_framed(bool& drained);
  [[nodiscard]] std::optional<CurlCode> nothing_came(ssize_t got, bool& drained);
  [[nodiscard]] std::optional<CurlCode> take_bytes(std::string_view bytes);
  [[nodiscard]] std::size_t take_head(std::string_view bytes);
  [[nodiscard]] bool speaks_http() const noexcept;
  [[nodiscard]] CurlCode gone(int error);
  void set_low_water(std::uint64_t next) noexcept;

  [[nodiscard]] int system_error() const override;
  [[nodiscard]] std::string redirect_url() const override;

  const std::string origin_;
  CurlEasy* easy_ = nullptr;  // while libcurl connects, and once it could not
  UniqueFd socket_;
  bool used_before_ = false;  // the connection
  bool reusable_ = false;

  std::string request_;
  std::size_t sent_ = 0;
  bool waits_for_room_ = false;
  std::uint64_t received_ = 0;
  std::size_t head_bytes_ = 0;
  std::string line_;  // of the head, as far as it came
  bool head_complete_ = false;
  BodyFrames frames_;
  int low_water_ = 1;
  int error_ = 0;
};

}  // namespace streamload
