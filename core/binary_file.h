// A file of foreign bytes, read at any place. Every read is whole or an error that names the file
// and what was being read; nothing is mapped, so a file that shrinks meanwhile is an error too.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace facetrain {

class BinaryFile {
 public:
  // `kind` is what an error calls it: "safetensors file". Throws unless it is a plain file that
  // opens.
  BinaryFile(const std::filesystem::path& file, const std::string& kind);
  ~BinaryFile();
  BinaryFile(const BinaryFile&) = delete;
  BinaryFile& operator=(const BinaryFile&) = delete;

  const std::filesystem::path& path() const { return path_; }
  uint64_t size() const { return size_; }
  // Exactly `bytes` from `offset`; `what` names them in the error.
  void read(void* data, uint64_t bytes, uint64_t offset, const std::string& what) const;
  std::string read(uint64_t bytes, uint64_t offset, const std::string& what) const;

 private:
  std::filesystem::path path_;
  int descriptor_ = -1;
  uint64_t size_ = 0;
};

}  // namespace facetrain
