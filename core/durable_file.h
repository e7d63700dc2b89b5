// Files and renames that survive a power cut: written under a temporary name, fsynced, renamed,
// folder fsynced.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace facetrain {

// A file that appears under its name complete, or not at all: without publish() nothing is left
// behind. All failures throw with the name of the file (unwritable folder, disk full, read-only).
class DurableFile {
 public:
  explicit DurableFile(const std::filesystem::path& target);
  ~DurableFile();
  DurableFile(const DurableFile&) = delete;
  DurableFile& operator=(const DurableFile&) = delete;
  // `bytes` of any number at `offset`, straight from memory.
  void write(const void* data, uint64_t bytes, uint64_t offset);
  // On disk before it has its name, and the name on disk before anyone relies on it.
  void publish();

 private:
  void check(bool ok, const char* action) const;
  std::filesystem::path target_, temporary_;
  int descriptor_ = -1;
  bool published_ = false;
};

// Throws as a write of `file` would: for a missing or read-only folder, and for a folder of that
// name. For commands that write at the end of long work.
void check_writable(const std::filesystem::path& file);
// Replaces `file` by `content`, all or nothing. Throws with the file's name.
void write_file_durably(const std::filesystem::path& file, const std::string& content);
// Renames within one folder and fsyncs that folder.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);
void sync_folder(const std::filesystem::path& folder);

}  // namespace facetrain
