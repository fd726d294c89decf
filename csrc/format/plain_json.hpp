// JSON as nearly everybody writes it: printable ASCII without escapes, whole numbers of at most 18 digits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace streamload {

// Goes over a text from its start, value by value; what it hands out points into the text. Every call answers false
// where the text is something else, or wrong, which this does not tell apart; there is no going on then.
class PlainJson {
 public:
  explicit PlainJson(std::string_view json) : at_(json.data()), end_(json.data() + json.size()) {}

  // An object; `member` reads the value of each key.
  template <class Member>
  bool members(Member member) {
    if (!token('{')) return false;
    if (token('}')) return true;
    do {
      std::string_view key;
      if (!string(key) || !token(':') || !member(key)) return false;
    } while (token(','));
    return token('}');
  }

  bool string(std::string_view& text) {
    if (!token('"')) return false;
    const char* first = at_;
    skip_plain();
    text = {first, static_cast<std::size_t>(at_ - first)};
    if (at_ == end_ || *at_ != '"') return false;
    ++at_;
    return true;
  }

  bool number(std::uint64_t& value) {
    skip_space();
    const char* first = at_;
    value = 0;
    while (at_ < end_ && is_digit(*at_) && static_cast<std::size_t>(at_ - first) <= kMostDigits) {
      value = 10 * value + static_cast<std::uint64_t>(*at_++ - '0');
    }
    const auto digits = static_cast<std::size_t>(at_ - first);
    return digits > 0 && digits <= kMostDigits && (digits == 1 || *first != '0');
  }

  bool token(char wanted) {
    if (!next_is(wanted)) return false;
    ++at_;
    return true;
  }

  bool next_is(char wanted) {
    skip_space();
    return at_ < end_ && *at_ == wanted;
  }

  bool ended() {
    skip_space();
    return at_ == end_;
  }

 private:
  static constexpr std::size_t kMostDigits = 18;  // below 2^63 whatever they are

  static bool is_digit(char c) { return c >= '0' && c <= '9'; }
  static bool is_plain(char c) { return c >= ' ' && c < '\x7f' && c != '"' && c != '\\'; }

  // Whether all of eight characters are plain: the high bit of a byte is set where a test of that byte, or of one
  // below it, found something (Hacker's Delight, 6-1).
  static bool all_plain(const char* eight) {
    constexpr std::uint64_t kOnes = 0x0101010101010101;
    std::uint64_t bytes = 0;
    std::memcpy(&bytes, eight, sizeof(bytes));
    const auto has_zero = [](std::uint64_t word) { return (word - kOnes) & ~word; };
    const std::uint64_t found = bytes | (bytes + kOnes) | ((bytes - kOnes * ' ') & ~bytes) |
                                has_zero(bytes ^ kOnes * '"') | has_zero(bytes ^ kOnes * '\\');
    return (found & (kOnes << 7)) == 0;
  }

  void skip_space() {
    while (at_ < end_ && (*at_ == ' ' || *at_ == '\n' || *at_ == '\t' || *at_ == '\r')) ++at_;
  }

  void skip_plain() {
    while (end_ - at_ >= 8 && all_plain(at_)) at_ += 8;
    while (at_ < end_ && is_plain(*at_)) ++at_;
  }

  const char* at_;
  const char* end_;
};

}  // namespace streamload
