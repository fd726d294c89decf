// Where the body of an HTTP/1.1 answer lies on its connection (RFC 9112, sections 6 and 7). Pure.
#pragma once

#include <cstdint>
#include <string_view>

#include "http/response.hpp"

namespace streamload {

// Framed by its length, in chunks, or up to the end of the connection.
class BodyFrames {
 public:
  BodyFrames() = default;  // of an answer without a body
  explicit BodyFrames(const ResponseHead& head);

  // So many bytes of the body come next without anything between them; 0 where something is, or nothing comes any more.
  [[nodiscard]] std::uint64_t ahead() const noexcept { return place_ == Place::kBody ? left_ : 0; }
  void pass(std::uint64_t nbytes) noexcept;  // of those
  // Takes what frames the body from the front of `bytes`, and says how much that was: all, unless body follows or it
  // ends.
  [[nodiscard]] std::size_t take(std::string_view bytes) noexcept;

  [[nodiscard]] bool ended() const noexcept { return place_ == Place::kEnd; }
  [[nodiscard]] bool ends_with_connection() const noexcept { return until_close_; }
  [[nodiscard]] bool broken() const noexcept { return place_ == Place::kBroken; }

 private:
  enum class Place : std::uint8_t {
    kBody,
    kSize,       // of a chunk, in hexadecimal
    kExtension,  // of a chunk, up to the line's end
    kChunkEnd,   // the line's end behind a chunk
    kTrailer,    // at the start of a line behind the last chunk
    kTrailerRest,
    kEnd,
    kBroken,
  };
  [[nodiscard]] Place after(char c) noexcept;
  [[nodiscard]] Place after_size(char c) noexcept;

  Place place_ = Place::kEnd;
  bool chunked_ = false;
  bool until_close_ = false;
  std::uint64_t left_ = 0;  // of the body, or of a chunk
  int digits_ = 0;
};

}  // namespace streamload
