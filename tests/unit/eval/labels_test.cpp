// Who is who: folders, numbers and label files.
#include "eval/labels.h"

#include <gtest/gtest.h>

#include <fstream>

#include "tests/support/error_of.h"

namespace facetrain {
namespace {

class Listed : public Source {
 public:
  Listed(std::vector<std::string> keys, std::vector<int64_t> numbers)
      : keys_(std::move(keys)), numbers_(std::move(numbers)) {}
  int64_t size() const override { return static_cast<int64_t>(keys_.size()); }
  Sample read(int64_t) const override { return {}; }
  int64_t identity(int64_t index) const override { return numbers_[static_cast<size_t>(index)]; }
  int64_t identities() const override { return 1; }
  std::string describe(int64_t index) const override {
    return "set 'x', shard 'a/b.h5', sample " + std::to_string(index);
  }
  std::string name() const override { return "x"; }
  std::string key(int64_t index) const override {
    const std::string& key = keys_[static_cast<size_t>(index)];
    return key.empty() ? describe(index) : key;
  }

 private:
  std::vector<std::string> keys_;
  std::vector<int64_t> numbers_;
};

using Texts = std::vector<std::string>;

TEST(Labels, FoldersWhereTheyAreOneToOneWithNumbers) {
  EXPECT_EQ(identities_of(Listed({"Ann/1.jpg", "Ann/x/2.jpg", "Bob/1.jpg"}, {0, 0, 1})),
            (Texts{"Ann", "Ann", "Bob"}));
  // One folder with two numbers, two folders with one number, no folder, no name: the numbers.
  EXPECT_EQ(identities_of(Listed({"i/1.jpg", "i/2.jpg"}, {7, 3})), (Texts{"7", "3"}));
  EXPECT_EQ(identities_of(Listed({"i/1.jpg", "k/2.jpg"}, {7, 7})), (Texts{"7", "7"}));
  EXPECT_EQ(identities_of(Listed({"1.jpg", "k/2.jpg"}, {0, 1})), (Texts{"0", "1"}));
  EXPECT_EQ(identities_of(Listed({"", ""}, {0, 1})), (Texts{"0", "1"}));
  EXPECT_TRUE(identities_of(Listed({"Ann/1.jpg", "Bob/1.jpg"}, {0, -1})).empty());
}

TEST(Labels, FoldersOfNames) {
  EXPECT_EQ(folders_of({"Ann/1.jpg", "Bob/deep/1.jpg"}), (Texts{"Ann", "Bob"}));
  EXPECT_TRUE(folders_of({"Ann/1.jpg", "1.jpg"}).empty());
  EXPECT_TRUE(folders_of({"/1.jpg"}).empty());
}

TEST(Labels, FilesHaveALineARow) {
  const std::string file = ::testing::TempDir() + "labels.txt";
  std::ofstream(file) << "Ann Smith\r\nBob\nAnn Smith\n";
  EXPECT_EQ(read_labels(file, 3), (Texts{"Ann Smith", "Bob", "Ann Smith"}));
  expect_error([&] { read_labels(file, 4); }, {"labels.txt: 3 lines for 4 embeddings"});
  std::ofstream(file) << "Ann\n\nBob\n";
  expect_error([&] { read_labels(file, 3); }, {"labels.txt:2:", "row 1", "empty line"});
  expect_error([&] { read_labels("/nowhere/labels.txt", 3); }, {"cannot read"});
}

}  // namespace
}  // namespace facetrain
