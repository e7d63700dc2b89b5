// Archives written header by header (tests/support/pth_bytes.h): sound ones, and each kind of
// unsound one.
#include "core/zip_reader.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include "tests/support/error_of.h"
#include "tests/support/pth_bytes.h"

namespace facetrain {
namespace {

class ZipReaderTest : public testing::Test {
 protected:
  std::filesystem::path write(const std::string& bytes) const { return write_bytes(file_, bytes); }
  void TearDown() override { std::filesystem::remove(file_); }
  std::filesystem::path file_ =
      std::filesystem::path(testing::TempDir()) / ("zip_reader_" + std::to_string(getpid()));
};

TEST_F(ZipReaderTest, ReadsStoredEntries) {
  for (const bool zip64_end : {false, true})
    for (const bool zip64 : {false, true}) {
      const std::vector<ZipPart> parts{{.name = "a/one", .bytes = "first", .zip64 = zip64},
                                       {.name = "a/two", .bytes = std::string(70000, 'x')},
                                       {.name = "empty", .bytes = ""}};
      const ZipReader archive(write(zip_bytes(parts, zip64_end)));
      ASSERT_EQ(archive.entries().size(), 3u);
      EXPECT_EQ(archive.read("a/one", 5), "first");
      EXPECT_EQ(archive.read("a/two", 70000), parts[1].bytes);
      EXPECT_EQ(archive.read("empty", 0), "");
      const auto& entry = archive.entry("a/two");
      EXPECT_EQ(archive.file().read(entry.size, entry.begin, ""), parts[1].bytes);
    }
}

TEST_F(ZipReaderTest, TakesACommentAndNoChecksum) {
  std::string bytes = zip_bytes({{.name = "a", .bytes = "text"}});
  bytes.replace(bytes.size() - 2, 2, little_endian<uint16_t>(5));
  EXPECT_EQ(ZipReader(write(bytes + "notes")).read("a", 9), "text");
  const auto crc = static_cast<uint32_t>(crc32_z(0, reinterpret_cast<const Bytef*>("text"), 4));
  const std::string none = zip_bytes({{.name = "a", .bytes = "text", .crc_error = 0u - crc}});
  EXPECT_EQ(ZipReader(write(none)).read("a", 9), "text");
}

TEST_F(ZipReaderTest, RefusesWhatIsDamaged) {
  const ZipPart part{.name = "a", .bytes = "some text"};
  const std::string sound = zip_bytes({part});
  const auto open = [&](const std::string& bytes) {
    return [this, bytes] { ZipReader(write(bytes)).read("a", 1000); };
  };
  open(sound)();
  for (size_t length = 0; length < sound.size(); ++length)
    expect_error(open(sound.substr(0, length)), {file_.string()});
  expect_error(open(sound.substr(0, 30)), {"no directory at its end", "truncated"});
  ZipPart wrong = part;
  wrong.crc_error = 1;
  expect_error(open(zip_bytes({wrong})), {"entry 'a'", "checksum", "damaged"});
  wrong = part;
  wrong.flags = 1;
  expect_error(open(zip_bytes({wrong})), {"entry 'a'", "encrypted"});
  wrong = part;
  wrong.local_name = "b";
  expect_error(open(zip_bytes({wrong})), {"entry 'a'", "points to something else"});
  expect_error(open(zip_bytes({part, part})), {"entry 'a'", "twice"});
  expect_error([&] { ZipReader(write(sound)).read("a", 8); }, {"9 bytes", "up to 8"});
  expect_error([&] { ZipReader(write(sound)).read("c", 8); }, {"no entry 'c'"});
}

// Opening must not fail for entries that nobody asks for.
TEST_F(ZipReaderTest, RefusesCompressedEntriesWhenTheyAreRead) {
  const ZipReader archive(write(zip_bytes(
      {{.name = "deflated", .bytes = "x", .method = 8}, {.name = "stored", .bytes = "y"}})));
  EXPECT_EQ(archive.read("stored", 1), "y");
  expect_error([&] { archive.read("deflated", 1); },
               {"entry 'deflated'", "compressed (method 8)", "zip -0"});
}

// Numbers of the headers, each set to what overflows: an error, or an entry that lies in the file.
TEST_F(ZipReaderTest, NeverReadsOutsideTheFile) {
  for (const bool zip64 : {false, true}) {
    const std::string sound = zip_bytes({{.name = "a", .bytes = "text", .zip64 = zip64}}, zip64);
    for (size_t at = 0; at + 8 <= sound.size(); ++at)
      for (const uint64_t number : {uint64_t{0}, ~uint64_t{0}, uint64_t{1} << 63, uint64_t{1000}}) {
        std::string bytes = sound;
        bytes.replace(at, 8, little_endian(number));
        try {
          const ZipReader archive(write(bytes));
          for (const auto& [name, entry] : archive.entries()) {
            EXPECT_LE(entry.begin, bytes.size());
            EXPECT_LE(entry.size, bytes.size() - entry.begin);
          }
        } catch (const Error& error) {
          EXPECT_NE(std::string(error.what()).find(file_.string()), std::string::npos);
        }
      }
  }
}

}  // namespace
}  // namespace facetrain
