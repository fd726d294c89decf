// How this core was compiled. Timings of a debug build mean nothing, so the benchmarks refuse to write them down.
#pragma once

namespace streamload {

#ifdef NDEBUG
inline constexpr const char* kBuildType = "release";
#else
inline constexpr const char* kBuildType = "debug";
#endif

}  // namespace streamload
