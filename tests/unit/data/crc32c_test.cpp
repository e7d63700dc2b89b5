#include "data/crc32c.h"

#include <gtest/gtest.h>

#include <string_view>
#include <vector>

#include "core/random.h"

namespace facetrain {
namespace {

std::vector<uint8_t> bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

// RFC 3720, appendix B.4, and the check value of the catalogue of CRCs.
TEST(Crc32c, PublishedVectors) {
  std::vector<uint8_t> rising(32), falling(32);
  for (int i = 0; i < 32; ++i) {
    rising[i] = static_cast<uint8_t>(i);
    falling[i] = static_cast<uint8_t>(31 - i);
  }
  for (const auto function : {crc32c, crc32c_portable}) {
    EXPECT_EQ(function(bytes_of("123456789"), 0), 0xe3069283u);
    EXPECT_EQ(function(std::vector<uint8_t>(32, 0), 0), 0x8a9136aau);
    EXPECT_EQ(function(std::vector<uint8_t>(32, 0xff), 0), 0x62a8ab43u);
    EXPECT_EQ(function(rising, 0), 0x46dd794eu);
    EXPECT_EQ(function(falling, 0), 0x113fdb5cu);
    EXPECT_EQ(function({}, 0), 0u);
  }
}

TEST(Crc32c, InstructionAndTableAgreeAndPartsChain) {
  Random random(random_key(3));
  std::vector<uint8_t> bytes(1021);
  for (auto& byte : bytes) byte = static_cast<uint8_t>(random.below(256));
  const std::span<const uint8_t> all(bytes);
  for (size_t length = 0; length < bytes.size(); length += 17) {
    EXPECT_EQ(crc32c(all.first(length)), crc32c_portable(all.first(length)));
    EXPECT_EQ(crc32c(all.subspan(length), crc32c(all.first(length))), crc32c(all));
  }
}

}  // namespace
}  // namespace facetrain
