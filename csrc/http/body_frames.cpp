#include "http/body_frames.hpp"

#include <limits>

namespace streamload {
namespace {

constexpr int kMostDigits = 15;  // of a chunk's size: what fits into 64 bits with room to spare

int hex_digit(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

}  // namespace

BodyFrames::BodyFrames(const ResponseHead& head) {
  constexpr int kNoContent = 204;
  constexpr int kNotModified = 304;
  if (head.status == kNoContent || head.status == kNotModified) return;
  if (head.chunked) {
    chunked_ = true;
    place_ = Place::kSize;
    return;
  }
  until_close_ = !head.content_length;
  left_ = head.content_length.value_or(std::numeric_limits<std::uint64_t>::max());
  place_ = left_ > 0 ? Place::kBody : Place::kEnd;
}

void BodyFrames::pass(std::uint64_t nbytes) noexcept {
  if (!until_close_) left_ -= nbytes;
  if (left_ == 0) place_ = chunked_ ? Place::kChunkEnd : Place::kEnd;
}

std::size_t BodyFrames::take(std::string_view bytes) noexcept {
  std::size_t taken = 0;
  while (taken < bytes.size() && place_ != Place::kBody && !ended() && !broken()) place_ = after(bytes[taken++]);
  return taken;
}

BodyFrames::Place BodyFrames::after(char c) noexcept {
  switch (place_) {
    case Place::kSize: return after_size(c);
    case Place::kExtension:
      if (c != '\n') return Place::kExtension;
      digits_ = 0;
      return left_ > 0 ? Place::kBody : Place::kTrailer;
    case Place::kChunkEnd:
      if (c == '\n') return Place::kSize;
      return c == '\r' ? Place::kChunkEnd : Place::kBroken;
    case Place::kTrailer:
      if (c == '\n') return Place::kEnd;
      return c == '\r' ? Place::kTrailer : Place::kTrailerRest;
    case Place::kTrailerRest: return c == '\n' ? Place::kTrailer : Place::kTrailerRest;
    default: return Place::kBroken;
  }
}

BodyFrames::Place BodyFrames::after_size(char c) noexcept {
  const int digit = hex_digit(c);
  if (digit >= 0) {
    constexpr int kBits = 4;
    if (++digits_ > kMostDigits) return Place::kBroken;
    left_ = (left_ << kBits) | static_cast<std::uint64_t>(digit);
    return Place::kSize;
  }
  const bool closes = c == ';' || c == '\r' || c == '\n' || c == ' ' || c == '\t';
  if (digits_ == 0 || !closes) return Place::kBroken;
  if (c != '\n') return Place::kExtension;
  place_ = Place::kExtension;
  return after(c);
}

}  // namespace streamload
