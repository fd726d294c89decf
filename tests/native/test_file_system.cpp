#include <linux/magic.h>

#include "check.hpp"
#include "io/file_system.hpp"

using namespace streamload;

TEST(file_systems_in_memory_are_told) {
  for (const std::int64_t magic : std::initializer_list<std::int64_t>{TMPFS_MAGIC, RAMFS_MAGIC, HUGETLBFS_MAGIC}) {
    CHECK(file_system_kind(magic) == FileSystemKind::kMemory);
  }
}

TEST(network_and_user_space_file_systems_are_told) {
  for (const std::int64_t magic : std::initializer_list<std::int64_t>{NFS_SUPER_MAGIC, SMB_SUPER_MAGIC, V9FS_MAGIC,
                                                                      AFS_SUPER_MAGIC, CODA_SUPER_MAGIC}) {
    CHECK(file_system_kind(magic) == FileSystemKind::kRemote);
  }
  // Not in every system's linux/magic.h.
  for (const std::int64_t magic : {0x65735546L /* FUSE */, 0x00C36400L /* Ceph */, 0xFE534D42L /* SMB 2 */}) {
    CHECK(file_system_kind(magic) == FileSystemKind::kRemote);
  }
}

TEST(a_number_that_is_negative_in_a_32_bit_word_is_the_same_number) {
  CHECK(file_system_kind(static_cast<std::int32_t>(0xFF534D42U)) == FileSystemKind::kRemote);
}

TEST(file_systems_on_drives_and_unknown_ones_are_drives) {
  for (const std::int64_t magic :
       std::initializer_list<std::int64_t>{EXT4_SUPER_MAGIC, XFS_SUPER_MAGIC, BTRFS_SUPER_MAGIC}) {
    CHECK(file_system_kind(magic) == FileSystemKind::kDrive);
  }
  CHECK(file_system_kind(OVERLAYFS_SUPER_MAGIC) == FileSystemKind::kStacked);
  CHECK(file_system_kind(0) == FileSystemKind::kDrive);
  CHECK(file_system_kind(-1) == FileSystemKind::kDrive);
}
