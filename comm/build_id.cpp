#include "comm/build_id.h"

#include <dlfcn.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "core/check.h"

namespace facetrain {
namespace {

// Not cryptographic: tells builds apart, 8 bytes at a time (64-bit multiply and rotate).
uint64_t hash_file(const std::filesystem::path& path, uint64_t hash) {
  std::ifstream file(path, std::ios::binary);
  FT_CHECK(file, "cannot read '{}' to tell which build runs", path.string());
  std::vector<char> block(1 << 20);
  while (file) {
    file.read(block.data(), std::ssize(block));
    const auto length = static_cast<size_t>(file.gcount());
    std::memset(block.data() + length, 0, std::min<size_t>(8, block.size() - length));
    for (size_t i = 0; i < length; i += 8) {
      uint64_t word;
      std::memcpy(&word, block.data() + i, 8);
      hash = (hash ^ word) * 0x9E3779B97F4A7C15ull;
      hash ^= hash >> 29;
    }
    hash += length;
  }
  return hash;
}

std::filesystem::path library_file() {
  Dl_info info;
  FT_CHECK(
      dladdr(reinterpret_cast<const void*>(&build_id), &info) != 0 && info.dli_fname != nullptr,
      "cannot find the file of the running code");
  // For code of the program itself the name is argv[0], which need not be a path.
  std::error_code error;
  const auto path = std::filesystem::canonical(info.dli_fname, error);
  return error ? std::filesystem::canonical("/proc/self/exe") : path;
}

}  // namespace

std::string library_folder() { return library_file().parent_path().string(); }

std::string build_id() {
  const auto program = std::filesystem::canonical("/proc/self/exe");
  uint64_t hash = hash_file(program, 0);
  if (const auto library = library_file(); library != program) hash = hash_file(library, hash);
  return fmt::format("{}-{:016x}", FACETRAIN_VERSION, hash);
}

}  // namespace facetrain
