// What tests of cache files share: a folder that removes itself, an object in chunks, and what is put of it.
#pragma once

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "check.hpp"
#include "io/cache_file.hpp"
#include "scratch.hpp"

namespace streamload {

inline constexpr std::uint64_t kChunk = 64 << 10;
inline constexpr std::uint64_t kChunks = 16;
inline constexpr std::uint64_t kBytes = kChunks * kChunk - 1000;

class Folder {
 public:
  Folder() {
    std::string name = std::string(::getenv("TMPDIR") != nullptr ? ::getenv("TMPDIR") : "/tmp") + "/streamload-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) std::abort();
    path_ = name;
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { std::filesystem::remove_all(path_); }

  [[nodiscard]] std::string file(const char* name = "object") const { return path_ + "/" + name; }
  [[nodiscard]] std::size_t entries() const { return count_entries(path_.c_str()); }

 private:
  std::string path_;
};

inline BootId boot(int number) {
  BootId id{};
  id.fill(static_cast<std::byte>(number));
  return id;
}

inline CacheFile::Settings settings(const std::string& path, int version = 1, int boot_number = 1) {
  CacheFile::Settings chosen{path, {kBytes, {}}, {}, boot(boot_number)};
  chosen.object.identity.fill(static_cast<std::byte>(version));
  return chosen;
}

inline std::shared_ptr<CacheFile> open(const std::string& path, int version = 1, int boot_number = 1) {
  std::shared_ptr<CacheFile> file;
  const Status status = CacheFile::open(settings(path, version, boot_number), file);
  if (!status.ok()) std::printf("%s\n", status.text.c_str());
  REQUIRE(status.ok());
  return file;
}

inline ByteRange chunk(std::uint64_t i) { return {i * kChunk, std::min(kBytes, (i + 1) * kChunk)}; }

inline bool put(CacheFile& file, ByteRange range) {
  const std::vector<std::byte> bytes = pattern(range.start, range.end - range.start);
  const auto half = bytes.size() / 2;
  const std::array<ConstHostSpan, 2> parts = {ConstHostSpan(bytes).first(half), ConstHostSpan(bytes).subspan(half)};
  return file.put(range.start, parts);
}

inline bool holds(CacheFile& file, ByteRange range) {
  std::vector<std::byte> bytes(range.end - range.start);
  const HostSpan all(bytes);
  const std::array<HostSpan, 3> targets = {all.first(1), all.subspan(1, 100), all.subspan(101)};
  return file.covers(range.start, bytes.size()) && file.read(range.start, targets).ok() &&
         bytes == pattern(range.start, bytes.size());
}

inline void fill(CacheFile& file) {
  for (std::uint64_t i = 0; i < kChunks; ++i) CHECK(put(file, chunk(i)));
}

inline bool is_the_object(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  const std::string text((std::istreambuf_iterator<char>(in)), {});
  const std::vector<std::byte> expected = pattern(0, kBytes);
  return text.size() == expected.size() && std::memcmp(text.data(), expected.data(), expected.size()) == 0;
}

inline void append(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary | std::ios::app) << text;
}

inline void overwrite(const std::string& path, std::uint64_t offset) {
  std::fstream out(path, std::ios::binary | std::ios::in | std::ios::out);
  out.seekp(static_cast<std::streamoff>(offset));
  out << "spoilt";
}

}  // namespace streamload
