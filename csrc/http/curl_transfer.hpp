// A transfer that libcurl does, TLS and HTTP: it receives, and what it received is copied into place.
#pragma once

#include "http/transfer.hpp"

namespace streamload {

class CurlTransfer final : public Transfer {
 public:
  CurlTransfer(Connections& connections, What what, const Clock::time_point& now)
      : Transfer(connections, std::move(what), now) {}
  CurlTransfer(const CurlTransfer&) = delete;
  CurlTransfer& operator=(const CurlTransfer&) = delete;
  ~CurlTransfer() override;

  [[nodiscard]] std::optional<CurlCode> start() override;
  [[nodiscard]] std::optional<CurlCode> on_message(CurlCode code) override { return code; }

 private:
  static std::size_t on_header(char* bytes, std::size_t size, std::size_t count, void* self) noexcept;
  static std::size_t on_body(char* bytes, std::size_t size, std::size_t count, void* self) noexcept;
  [[nodiscard]] bool prepare();
  [[nodiscard]] bool add_lines();
  [[nodiscard]] int system_error() const override;
  [[nodiscard]] std::string redirect_url() const override;

  CurlEasy* easy_ = nullptr;
  CurlList* lines_ = nullptr;
};

}  // namespace streamload
