#include "io/file_system.hpp"

#include <algorithm>
#include <array>

namespace streamload {
namespace {

// Numbers from linux/magic.h; those marked * are not there, they come from the file systems' own sources.
constexpr std::array<std::uint32_t, 3> kMemory = {
    0x01021994,  // tmpfs, devtmpfs
    0x858458F6,  // ramfs
    0x958458F6,  // hugetlbfs
};
constexpr std::uint32_t kOverlay = 0x794C7630;
constexpr std::array<std::uint32_t, 17> kRemote = {
    0x00006969,  // NFS
    0x0000517B,  // SMB
    0xFF534D42,  // CIFS
    0xFE534D42,  // SMB 2 and 3
    0x0000564C,  // NCP
    0x65735546,  // FUSE, and virtiofs with it
    0x01021997,  // 9p
    0x00C36400,  // Ceph
    0x5346414F,  // AFS (OpenAFS)
    0x6B414653,  // AFS (kAFS)
    0x73757245,  // Coda
    0x786F4256,  // VirtualBox shared folders
    0xBACBACBC,  // VMware shared folders *
    0x0BD00BD0,  // Lustre *
    0x47504653,  // GPFS *
    0x19830326,  // BeeGFS *
    0x20030528,  // OrangeFS *
};

}  // namespace

FileSystemKind file_system_kind(std::int64_t magic) noexcept {
  // f_type is signed and as wide as a word: on 32-bit machines the high numbers are negative.
  const auto number = static_cast<std::uint32_t>(magic);
  const auto is_in = [number](const auto& table) {
    return std::find(table.begin(), table.end(), number) != table.end();
  };
  if (is_in(kMemory)) return FileSystemKind::kMemory;
  if (number == kOverlay) return FileSystemKind::kStacked;
  return is_in(kRemote) ? FileSystemKind::kRemote : FileSystemKind::kDrive;
}

}  // namespace streamload
