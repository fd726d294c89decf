// The two files of a CacheFile by name: opened, removed, published, in steps that may be cut short anywhere.
//
// Where the data file exists, the journal beside it is about it: the journal is made first, and goes last. Who makes,
// renames or removes holds a lock in the journal, and looks whether the name still means the file it has locked.
#pragma once

#include <cstdint>
#include <string>

#include "core/status.hpp"
#include "core/unique_fd.hpp"
#include "io/cache_journal.hpp"

namespace streamload {

// A lock in a journal file, waited for, held while the object lives.
class JournalLock {
 public:
  enum Kind : std::uint8_t {
    kNames = 0,     // making, renaming and removing the two files
    kPresence = 1,  // shared by whoever has them open
    kChecking = 2,  // comparing another boot's bytes with their checksums
  };

  JournalLock(int fd, Kind kind) noexcept;
  JournalLock(const JournalLock&) = delete;
  JournalLock& operator=(const JournalLock&) = delete;
  ~JournalLock();

  [[nodiscard]] int error() const noexcept { return error_; }

 private:
  const int fd_;
  const Kind kind_;
  const int error_;
};

[[nodiscard]] Status cache_failure(const char* call, const std::string& path, int error);

[[nodiscard]] bool is_of_boot(const CacheRecord& record, const BootId& boot) noexcept;

// Opens both files, private to the user, and marks them as in use while `journal` is open.
[[nodiscard]] Status open_cache_files(const std::string& path, const JournalHeader& object, UniqueFd& data,
                                      UniqueFd& journal) noexcept;
[[nodiscard]] Status remove_cache_files(const std::string& path, bool& removed) noexcept;
[[nodiscard]] Status publish_cache_files(const std::string& path, int data, int journal, const std::string& target,
                                         bool replace) noexcept;

}  // namespace streamload
