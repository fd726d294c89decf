// Memory in pieces that bytes are written into one after another.
#pragma once

#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "core/spans.hpp"

namespace streamload {

// Not thread-safe; owns none of the memory.
class Scatter {
 public:
  explicit Scatter(std::vector<HostSpan> parts) : parts_(std::move(parts)) {
    for (const HostSpan part : parts_) nbytes_ += part.size();
  }

  [[nodiscard]] std::size_t nbytes() const noexcept { return nbytes_; }
  // The next byte goes to this place, counted over all pieces.
  void seek(std::size_t position) noexcept {
    for (part_ = 0; part_ < parts_.size() && position >= parts_[part_].size(); ++part_)
      position -= parts_[part_].size();
    at_ = position;
  }
  // There must be room for it.
  void write(ConstHostSpan bytes) noexcept {
    while (!bytes.empty()) {
      const HostSpan room = parts_[part_].subspan(at_);
      const std::size_t count = std::min(room.size(), bytes.size());
      if (count != 0) std::memcpy(room.data(), bytes.data(), count);
      bytes = bytes.subspan(count);
      at_ += count;
      if (at_ == parts_[part_].size()) {
        ++part_;
        at_ = 0;
      }
    }
  }

 private:
  std::vector<HostSpan> parts_;
  std::size_t nbytes_ = 0;
  std::size_t part_ = 0;
  std::size_t at_ = 0;  // in that part
};

}  // namespace streamload
