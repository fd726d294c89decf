#include "io/callback_source.hpp"

namespace streamload {

Status CallbackSource::read(std::uint64_t offset, std::size_t nbytes, HostSpan buffer, ConstHostSpan& out,
                            Choice& choice) noexcept {
  choice = Choice{};
  std::size_t filled = 0;
  Status status;
  while (filled < nbytes && status.ok()) {
    std::size_t got = 0;
    status = read_into_(offset + filled, buffer.subspan(filled, nbytes - filled), got);
    if (!status.ok()) break;
    const std::string place = std::to_string(nbytes) + " bytes at offset " + std::to_string(offset);
    if (got > nbytes - filled) {
      status = Status::failure(Code::kCallbackFailed, url_ + ": read_into claims " + std::to_string(got) +
                                                          " bytes in a buffer of " + std::to_string(nbytes - filled));
    } else if (got == 0) {
      status = Status::failure(Code::kShortRead, url_ + ": got " + std::to_string(filled) + " of " + place);
    }
    filled += got;
  }
  if (!status.ok()) {
    status.source = url_;
    status.offset = offset;
    status.nbytes = nbytes;
    return status;
  }
  out = buffer.first(nbytes);
  return {};
}

}  // namespace streamload
