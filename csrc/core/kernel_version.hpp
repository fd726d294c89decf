// The running kernel's version, for what it gets wrong and does not tell.
#pragma once

#include <sys/utsname.h>

#include <cstdlib>
#include <utility>

namespace streamload {

// Whether it is Linux of at least that version. False where it will not say.
inline bool kernel_at_least(long major, long minor) noexcept {
  utsname facts{};
  if (::uname(&facts) != 0) return false;
  char* rest = nullptr;
  const long found_major = std::strtol(facts.release, &rest, 10);
  const long found_minor = *rest == '.' ? std::strtol(rest + 1, nullptr, 10) : 0;
  return std::pair(found_major, found_minor) >= std::pair(major, minor);
}

}  // namespace streamload
