// Pair lists over folders of images: the images that are found, and only those that a pair uses.
#include "eval/pair_set.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/check.h"
#include "core/torch.h"
#include "data/image_codec.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

class PairSets : public ::testing::Test {
 protected:
  void SetUp() override {
    folder = fs::path(::testing::TempDir()) / "pair_sets";
    fs::remove_all(folder);
    // The grey level tells an image apart.
    add("Ann/Ann_0001.png", 10);
    add("Ann/Ann_0002.png", 20);
    add("Bob/Bob_0001.png", 30);
    add("Cy/Cy_0001.png", 40);
    add("Cy/Cy_0007.png", 50);
  }
  void add(const std::string& name, uint8_t level) {
    fs::create_directories((folder / name).parent_path());
    const auto bytes = encode_png({4, 4, 3, std::vector<uint8_t>(48, level)});
    std::ofstream(folder / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()),
               static_cast<std::streamsize>(bytes.size()));
  }
  fs::path pairs(const std::string& text) {
    std::ofstream(folder.string() + ".txt") << text;
    return folder.string() + ".txt";
  }
  int level(const PairSet& set, int64_t row) {
    return set.source->read(row).fields.at("image")[0][0][0].item<uint8_t>();
  }
  fs::path folder;
};

TEST_F(PairSets, LfwNamesOverAFolder) {
  const auto set = open_pair_set(folder.string(), pairs("1\t1\nCy\t1\t7\nAnn\t2\tCy\t7\n"), {});
  EXPECT_EQ(set.source->size(), 3);  // Ann 1 and Bob are in no pair
  ASSERT_EQ(set.pairs.size(), 2u);
  EXPECT_TRUE(set.pairs[0].same);
  EXPECT_EQ(level(set, set.pairs[0].first), 40);
  EXPECT_EQ(level(set, set.pairs[0].second), 50);
  EXPECT_EQ(level(set, set.pairs[1].first), 20);
  EXPECT_EQ(level(set, set.pairs[1].second), 50);
  EXPECT_EQ(set.source->key(set.pairs[1].first), "Ann/Ann_0002.png");
}

TEST_F(PairSets, CsvRowsAreThoseOfTheWholeSet) {
  const auto set = open_pair_set("folder:" + folder.string(), pairs("1,4,2,0\n2,4,3,1\n"), {});
  EXPECT_EQ(set.source->size(), 3);
  EXPECT_EQ(level(set, set.pairs[0].first), 50);
  EXPECT_EQ(level(set, set.pairs[0].second), 30);
  EXPECT_EQ(level(set, set.pairs[1].second), 40);
  EXPECT_THROW(open_pair_set(folder.string(), pairs("1,4,5,0\n"), {}), Error);  // rows 0 ... 4
}

TEST_F(PairSets, AMissingImageIsNamed) {
  try {
    open_pair_set(folder.string(), pairs("1\t1\nAnn\t1\t2\nAnn\t1\tDora\t1\n"), {});
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("asks for the image 'Dora/Dora_0001'"),
              std::string::npos)
        << error.what();
  }
}

}  // namespace
}  // namespace facetrain
