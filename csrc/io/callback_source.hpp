// A source somebody else reads: a function that fills a buffer, called by the engine's threads.
//
// The bindings wrap a Python object's `read_into` in one; C++ tests use lambdas that fail on demand.
#pragma once

#include <functional>
#include <string>

#include "io/source.hpp"

namespace streamload {

class CallbackSource final : public Source {
 public:
  // Fills the front of `buffer` from `offset` and sets `got`, 0 at the end of the source. Called from several
  // threads at once; blocks as long as it likes.
  using ReadInto = std::function<Status(std::uint64_t offset, HostSpan buffer, std::size_t& got)>;

  CallbackSource(std::string url, ReadInto read_into) : url_(std::move(url)), read_into_(std::move(read_into)) {}

  [[nodiscard]] const std::string& url() const noexcept override { return url_; }
  [[nodiscard]] Status read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                            Choice& choice) noexcept override;

 private:
  const std::string url_;
  const ReadInto read_into_;
};

}  // namespace streamload
