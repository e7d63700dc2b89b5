// SHA-256 (FIPS 180-4), for checksums of files that we hand out.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace facetrain {

class Sha256 {
 public:
  void update(std::string_view bytes);
  // 64 hexadecimal digits; ends the object's use.
  std::string finish();

 private:
  void block(const unsigned char* bytes);
  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<unsigned char, 64> rest_{};
  size_t filled_ = 0;
  uint64_t bytes_ = 0;
};

// Of a file, as `sha256sum` prints it. Throws when it cannot be read.
std::string sha256_of_file(const std::filesystem::path& file);

}  // namespace facetrain
