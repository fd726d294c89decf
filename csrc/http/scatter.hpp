// Memory in pieces that bytes are written into one after another.
#pragma once

#include <sys/uio.h>

#include <algorithm>
#include <cstring>
#include <span>
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
      pass(count);
    }
  }
  // Where the next bytes go, `most` of them at most: fills the front of `out` and says how many of it.
  [[nodiscard]] std::size_t rooms(std::size_t most, std::span<iovec> out) const noexcept {
    std::size_t count = 0;
    std::size_t at = at_;
    for (std::size_t part = part_; part < parts_.size() && most > 0 && count < out.size(); ++part, at = 0) {
      const HostSpan room = parts_[part].subspan(at);
      if (room.empty()) continue;
      const std::size_t nbytes = std::min(room.size(), most);
      out[count++] = {room.data(), nbytes};
      most -= nbytes;
    }
    return count;
  }
  // So many of them were written.
  void pass(std::size_t nbytes) noexcept {
    for (at_ += nbytes; part_ < parts_.size() && at_ >= parts_[part_].size(); ++part_) at_ -= parts_[part_].size();
  }

 private:
  std::vector<HostSpan> parts_;
  std::size_t nbytes_ = 0;
  std::size_t part_ = 0;
  std::size_t at_ = 0;  // in that part
};

}  // namespace streamload
