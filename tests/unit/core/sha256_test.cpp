// SHA-256 against the examples of NIST (FIPS 180-4, csrc.nist.gov, "SHA256.pdf" and
// "SHA2_Additional").
#include "core/sha256.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/error_of.h"

namespace facetrain {
namespace {

std::string sum_of(const std::string& text) {
  Sha256 sum;
  sum.update(text);
  return sum.finish();
}

TEST(Sha256, ExamplesOfTheStandard) {
  EXPECT_EQ(sum_of(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sum_of("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(sum_of("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq"),
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
  EXPECT_EQ(sum_of(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
  // One byte, and lengths around a block: 55, 56, 57 and 64 zero bytes.
  EXPECT_EQ(sum_of("\xbd"), "68325720aabd7c82f30f554b313d0570c95accbb7dc4b5aae11204c08ffe732b");
  EXPECT_EQ(sum_of(std::string(55, '\0')),
            "02779466cdec163811d078815c633f21901413081449002f24aa3e80f0b88ef7");
  EXPECT_EQ(sum_of(std::string(56, '\0')),
            "d4817aa5497628e7c77e6b606107042bbba3130888c5f47a375e6179be789fbb");
  EXPECT_EQ(sum_of(std::string(57, '\0')),
            "65a16cb7861335d5ace3c60718b5052e44660726da4cd13bb745381b235a1785");
  EXPECT_EQ(sum_of(std::string(64, '\0')),
            "f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b");
}

TEST(Sha256, PartsAndFilesGiveTheSame) {
  const std::string text(3'000'001, 'q');
  Sha256 sum;
  for (size_t at = 0; at < text.size(); at += 777)
    sum.update(std::string_view(text).substr(at, 777));
  const std::filesystem::path file = std::filesystem::path(::testing::TempDir()) / "sha256.bin";
  std::ofstream(file, std::ios::binary) << text;
  EXPECT_EQ(sum.finish(), sum_of(text));
  EXPECT_EQ(sha256_of_file(file), sum_of(text));
  expect_error([] { sha256_of_file("/nowhere/x"); }, {"/nowhere/x", "cannot be read"});
}

}  // namespace
}  // namespace facetrain
