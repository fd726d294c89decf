// Typed views of bytes: host memory is std::span<std::byte>, device memory is DeviceSpan.
//
// Neither owns. A DeviceSpan arrives from Python as an integer and is wrapped at once, so that a device
// address can never be dereferenced by mistake.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace streamload {

using HostSpan = std::span<std::byte>;
using ConstHostSpan = std::span<const std::byte>;

struct DeviceSpan {
  std::uintptr_t address = 0;
  std::size_t nbytes = 0;

  [[nodiscard]] constexpr DeviceSpan subspan(std::size_t offset, std::size_t count) const noexcept {
    return DeviceSpan{address + offset, count};
  }
  [[nodiscard]] constexpr bool empty() const noexcept { return nbytes == 0; }
};

}  // namespace streamload
