// A profiler for tests: NVTX loads it as it would load Nsight Systems, and it keeps every range it is told of.
//
// test_ranges.cpp finds `recorder_take` by name in the library that NVTX has loaded.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace recorder {

struct Recorded {
  std::string domain;
  std::string name;
  std::string category;  // its name; empty where it has none
  std::uint64_t bytes = 0;
  std::uint64_t thread = 0;  // that it began on
  int depth = 0;             // ranges of its thread around it
  bool pushed = false;       // by a thread, or else under way beside what threads do
  bool ended = false;
};

struct Record {
  std::vector<Recorded> ranges;  // in the order of their beginning
  int wrong = 0;                 // pops without a push, ends without a start, payloads that are no count of bytes
};

using Take = void (*)(Record& out);  // what was recorded since the last call; `recorder_take`

}  // namespace recorder
