// CRC-32C (Castagnoli): the checksum of iSCSI, ext4 and the object stores, of bytes in host memory.
//
// All functions are pure and may run on any thread. Values are the customary ones, as RFC 3720 prints them: the CRC of
// no bytes is 0, and a CRC is carried on by handing it in again.
#pragma once

#include <cstdint>

#include "core/spans.hpp"

namespace streamload {

// Returns the CRC of everything `crc` stands for followed by `bytes`; begin with 0. Uses the processor's own
// instruction where it has one (x86-64 since SSE4.2, arm64 since its CRC extension), else tables.
[[nodiscard]] std::uint32_t crc32c(std::uint32_t crc, ConstHostSpan bytes) noexcept;

// Returns the CRC of two byte strings one after the other, from their CRCs and the length of the second. So pieces may
// be summed by any thread in any order.
[[nodiscard]] std::uint32_t crc32c_combine(std::uint32_t first, std::uint32_t second,
                                           std::uint64_t second_bytes) noexcept;

// What crc32c() uses on a processor without the instruction; named so that a test can hold one to the other.
[[nodiscard]] std::uint32_t crc32c_by_table(std::uint32_t crc, ConstHostSpan bytes) noexcept;

// Whether crc32c() uses an instruction here.
[[nodiscard]] bool crc32c_has_instruction() noexcept;

}  // namespace streamload
