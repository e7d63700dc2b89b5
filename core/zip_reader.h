// Zip archives as PyTorch writes them: entries that are stored, never compressed, found through the
// central directory (zip64 too). Every offset, length and name is checked before it is used.
#pragma once

#include <map>
#include <string>

#include "core/binary_file.h"

namespace facetrain {

struct ZipEntry {
  uint64_t begin, size;  // its bytes in the file
  uint32_t crc;          // 0: the writer computed none (torch.serialization.set_crc32_options)
};

class ZipReader {
 public:
  // Throws with the file's name when it is no sound archive, or holds an encrypted entry or one
  // name twice. A compressed entry is an error when it is asked for.
  explicit ZipReader(const std::filesystem::path& file);

  const BinaryFile& file() const { return file_; }
  const std::map<std::string, ZipEntry>& entries() const { return entries_; }
  // Throws when there is none of that name, or it is compressed.
  const ZipEntry& entry(const std::string& name) const;
  // All bytes of an entry, its checksum compared; `limit` bounds what is allocated.
  std::string read(const std::string& name, uint64_t limit) const;

 private:
  struct Directory {
    uint64_t entries, begin, size;
  };
  Directory find_directory() const;
  void parse(const std::string& directory, uint64_t count);
  void add(std::string_view header, std::string_view name, std::string_view extra);

  BinaryFile file_;
  std::map<std::string, ZipEntry> entries_;
  std::map<std::string, uint32_t> compressed_;  // name -> method
};

// Throws unless `bytes` have the checksum (0 is none); `what` names them in the error.
void check_crc(const void* bytes, uint64_t size, uint32_t expected, const std::string& what);

}  // namespace facetrain
