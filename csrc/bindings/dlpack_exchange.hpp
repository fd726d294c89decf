// What DLPack's exchange table looks like: calls that ask a framework's tensors without Python in between.
//
// The layout is that of `DLPackExchangeAPI` in dlpack.h 1.3; a table of the same major version begins alike.
#pragma once

#include <nanobind/ndarray.h>

#include <cstdint>

namespace streamload {

inline constexpr const char* kDlpackExchangeName = "dlpack_exchange_api";  // of the capsule
inline constexpr std::uint32_t kDlpackMajor = 1;

struct DlpackExchangeHeader {
  std::uint32_t major;
  std::uint32_t minor;
  const DlpackExchangeHeader* previous;  // an older table, or null
};

struct DlpackExchange {
  DlpackExchangeHeader header;
  void (*allocate)();
  void (*managed_from_object)();
  void (*object_from_managed)();
  // Fills in what a tensor is, with pointers into it; not 0, and an exception set, if it cannot be told. May be null.
  int (*describe)(void* object, nanobind::dlpack::dltensor* described);
  void (*current_stream)();
};

// The newest table of the version known here that can describe a tensor; null if there is none.
inline const DlpackExchange* find_exchange(const DlpackExchangeHeader* newest) noexcept {
  for (const DlpackExchangeHeader* header = newest; header != nullptr; header = header->previous) {
    if (header->major != kDlpackMajor) continue;
    const auto* const table = reinterpret_cast<const DlpackExchange*>(header);
    return table->describe != nullptr ? table : nullptr;
  }
  return nullptr;
}

}  // namespace streamload
