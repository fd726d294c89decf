// System calls that a signal may interrupt.
#pragma once

#include <cerrno>

namespace streamload {

// Makes the call again while it ends in EINTR. `call` returns a negative number and sets errno where it fails.
template <class Call>
[[nodiscard]] auto retry_interrupted(Call&& call) noexcept {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

}  // namespace streamload
