#include "data/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "data/inspect.h"
#include "data/pairs.h"
#include "data/shard_reader.h"
#include "tests/support/data_support.h"

namespace facetrain {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

// Three people with JPEG, PNG and PGM images.
void write_people(const fs::path& folder) {
  for (int64_t i = 0; i < 4; ++i)
    write_file(folder / "anna" / fmt::format("{}.jpg", i), encode_jpeg(smooth_image(i), 90));
  for (int64_t i = 0; i < 3; ++i)
    write_file(folder / "bert" / fmt::format("{}.png", i),
               encode_png(smooth_image(10 + i, 20, 16)));
  std::string grey = "P5 4 3 255\n";
  for (char c = 0; c < 12; ++c) grey.push_back(c);
  write_file(folder / "carl" / "0.pgm", {grey.begin(), grey.end()});
}

std::map<std::string, std::vector<uint8_t>> shards_of(const fs::path& folder) {
  std::map<std::string, std::vector<uint8_t>> files;
  for (const auto& entry : fs::directory_iterator(folder))
    files[entry.path().filename().string()] = read_file(entry.path());
  return files;
}

PackOptions options(const TemporaryFolder& folder, const std::string& out, int64_t jobs = 1) {
  PackOptions result;
  result.in = folder.path() / "people";
  result.out = folder.path() / out;
  result.jobs = jobs;
  result.min_images = 1;
  result.shard_images = 3;
  result.shard_bytes = 0;
  return result;
}

TEST(Pack, KeepsJpegAndPngBytesAndTurnsPnmIntoPng) {
  const TemporaryFolder folder;
  write_people(folder.path() / "people");
  const PackResult result = pack_set(options(folder, "out"));
  EXPECT_EQ(result.identities, 3);
  EXPECT_EQ(result.set.records, 8);
  EXPECT_EQ(result.set.shards, 3);
  const auto source = open_source((folder.path() / "out").string(), {});
  ASSERT_EQ(source->size(), 8);
  EXPECT_EQ(source->name(), "out");
  EXPECT_EQ(source->key(5), "bert/1.png");
  EXPECT_EQ(source->identity(7), 2);
  const ShardReader first(folder.path() / "out" / "out-00000.h5");
  const ShardReader last(folder.path() / "out" / "out-00002.h5");
  std::vector<uint8_t> bytes;
  first.read_image(2, bytes);
  EXPECT_EQ(bytes, read_file(folder.path() / "people" / "anna" / "2.jpg"));
  last.read_image(0, bytes);
  EXPECT_EQ(bytes, read_file(folder.path() / "people" / "bert" / "2.png"));
  last.read_image(1, bytes);
  const ImageInfo info = probe_image(bytes);
  EXPECT_EQ(info.format, ImageFormat::kPng);
  EXPECT_EQ(info.channels, 1);
  EXPECT_EQ(decode_image(bytes).pixels[3 * 5], 5);
}

TEST(Pack, SameBytesForAnyNumberOfJobs) {
  const TemporaryFolder folder;
  write_people(folder.path() / "people");
  pack_set(options(folder, "a/set", 1));
  pack_set(options(folder, "b/set", 4));
  EXPECT_EQ(shards_of(folder.path() / "a" / "set"), shards_of(folder.path() / "b" / "set"));
}

TEST(Pack, GoesOnAfterAnInterruption) {
  const TemporaryFolder folder;
  write_people(folder.path() / "people");
  pack_set(options(folder, "whole/set"));
  const auto wanted = shards_of(folder.path() / "whole" / "set");
  fs::create_directories(folder.path() / "half");
  fs::copy(folder.path() / "whole" / "set", folder.path() / "half" / "set");
  fs::remove(folder.path() / "half" / "set" / "set-00001.h5");
  write_file(folder.path() / "half" / "set" / "set-00001.h5.tmp", {1, 2, 3});
  const PackResult result = pack_set(options(folder, "half/set"));
  EXPECT_EQ(result.set.kept, 2);
  EXPECT_EQ(shards_of(folder.path() / "half" / "set"), wanted);
  EXPECT_EQ(pack_set(options(folder, "half/set")).set.kept, 3);
}

TEST(Pack, RefusesTheFolderOfAnotherSet) {
  const TemporaryFolder folder;
  write_people(folder.path() / "people");
  pack_set(options(folder, "out"));
  write_file(folder.path() / "people" / "dora" / "0.png", encode_png(smooth_image(1)));
  EXPECT_THAT(error_of([&] { pack_set(options(folder, "out")); }), HasSubstr("holds another set"));
  auto other = options(folder, "out");
  other.shard_images = 4;
  EXPECT_THAT(error_of([&] { pack_set(other); }), HasSubstr("holds another set"));
  write_file(folder.path() / "file", {1});
  EXPECT_THAT(error_of([&] { pack_set(options(folder, "file")); }),
              HasSubstr("cannot make the folder"));
}

// The fingerprint knows names and lengths; a finished shard is compared with the bytes themselves.
TEST(Pack, RefusesToKeepAShardOfAnImageThatChanged) {
  const TemporaryFolder folder;
  write_people(folder.path() / "people");
  pack_set(options(folder, "out"));
  const auto before = shards_of(folder.path() / "out");
  const fs::path grey = folder.path() / "people" / "carl" / "0.pgm";
  auto bytes = read_file(grey);
  bytes.back() ^= 1;
  write_file(grey, bytes);
  const std::string message = error_of([&] { pack_set(options(folder, "out")); });
  EXPECT_THAT(message, HasSubstr("out-00002.h5', sample 1: this finished shard"));
  EXPECT_THAT(message, HasSubstr("remove the shard"));
  EXPECT_EQ(shards_of(folder.path() / "out"), before);
  fs::remove(folder.path() / "out" / "out-00002.h5");
  EXPECT_EQ(pack_set(options(folder, "out")).set.kept, 2);
  EXPECT_NE(shards_of(folder.path() / "out"), before);
}

TEST(Pack, RefusesIdentitiesWithFewerImagesThanWanted) {
  const TemporaryFolder folder;
  write_people(folder.path() / "people");
  auto wanted = options(folder, "out");
  wanted.min_images = 2;
  const std::string message = error_of([&] { pack_set(wanted); });
  for (const char* part :
       {"at least 2 images", "1 of 3", "label 2 ('carl/0.pgm')", "lower --min-images"})
    EXPECT_THAT(message, HasSubstr(part));
  EXPECT_FALSE(fs::exists(folder.path() / "out"));
  wanted.min_images = 4;
  EXPECT_THAT(error_of([&] { pack_set(wanted); }),
              HasSubstr("2 of 3: label 1 ('bert/0.png'), label 2"));
  fs::remove_all(folder.path() / "people" / "carl");
  wanted.min_images = 2;
  EXPECT_EQ(pack_set(wanted).identities, 2);
}

TEST(Pack, WarnsOfIdentitiesWithOneImage) {
  const TemporaryFolder folder;
  write_people(folder.path() / "people");
  EXPECT_THAT(pack_set(options(folder, "out")).warnings,
              testing::Contains(HasSubstr("one image: 1 of 3: label 2 ('carl/0.pgm')")));
}

TEST(Pack, NamesAnImageThatIsDamagedAndWritesNoShardOfIt) {
  const TemporaryFolder folder;
  write_people(folder.path() / "people");
  auto bytes = read_file(folder.path() / "people" / "anna" / "1.jpg");
  bytes.resize(bytes.size() / 2);
  write_file(folder.path() / "people" / "anna" / "1.jpg", bytes);
  EXPECT_THAT(error_of([&] { pack_set(options(folder, "out", 3)); }), HasSubstr("anna/1.jpg"));
  for (const auto& [name, content] : shards_of(folder.path() / "out"))
    EXPECT_NE(name, "out-00000.h5");
}

TEST(Pack, RefusesLabelGapsUnlessAllowed) {
  const TemporaryFolder folder;
  write_people(folder.path() / "people");
  const std::string text = "people/anna/0.jpg\t0\npeople/bert/0.png\t3\n";
  write_file(folder.path() / "list.txt", {text.begin(), text.end()});
  auto wanted = options(folder, "out");
  wanted.in = folder.path() / "list.txt";
  const std::string message = error_of([&] { pack_set(wanted); });
  EXPECT_THAT(message, HasSubstr("1, 2"));
  EXPECT_THAT(message, HasSubstr("--allow-gaps"));
  EXPECT_FALSE(fs::exists(folder.path() / "out"));
  wanted.allow_gaps = true;
  const PackResult result = pack_set(wanted);
  EXPECT_EQ(result.identities, 4);
  EXPECT_THAT(result.warnings.at(0), HasSubstr("1, 2"));
  EXPECT_EQ(inspect_set(folder.path() / "out").identities.gaps, (std::vector<int64_t>{1, 2}));
}

TEST(CutShards, ByImagesAndByBytes) {
  EXPECT_EQ(cut_shards({5, 5, 5, 5, 5}, 2, 0), (std::vector<int64_t>{0, 2, 4, 5}));
  EXPECT_EQ(cut_shards({5, 5, 5, 5, 5}, 0, 10), (std::vector<int64_t>{0, 2, 4, 5}));
  EXPECT_EQ(cut_shards({50, 5, 5}, 0, 10), (std::vector<int64_t>{0, 1, 3}));
  EXPECT_EQ(cut_shards({1, 1}, 0, 0), (std::vector<int64_t>{0, 2}));
}

TEST(Inspect, CountsWhatIsThere) {
  const TemporaryFolder folder;
  write_people(folder.path() / "people");
  pack_set(options(folder, "out"));
  const SetInfo info = inspect_set(folder.path() / "out");
  EXPECT_EQ(info.images, 8);
  EXPECT_EQ(info.shards, 3);
  EXPECT_EQ(info.probed, 8);
  EXPECT_EQ((info.sizes.at({20, 16})), 3);
  EXPECT_EQ((info.sizes.at({4, 3})), 1);
  EXPECT_EQ(info.formats.at("jpeg"), 4);
  EXPECT_EQ(info.identities.single, 1);
  EXPECT_EQ(info.identities.largest, 4);
  EXPECT_EQ(info.examples.size(), 3u);
  EXPECT_EQ(info.present, (std::vector<int64_t>{8, 8}));
  EXPECT_EQ(info.examples[0].back(), "anna/0.jpg");
}

TEST(Verify, PassesAWholeSetAndNamesEveryFailure) {
  const TemporaryFolder folder;
  write_test_set(folder.path() / "set", 12, 4);
  const VerifyResult good = verify_set(folder.path() / "set", 2);
  EXPECT_TRUE(good.failures.empty());
  EXPECT_EQ(good.images, 12);
  const fs::path file = folder.path() / "set" / "tiny-00001.h5";
  auto bytes = read_file(file);
  const auto image = test_record(6).image;
  auto at = std::search(bytes.begin(), bytes.end(), image.begin(), image.end());
  at[100] ^= 1;
  write_file(file, bytes);
  fs::resize_file(folder.path() / "set" / "tiny-00002.h5", 4000);
  const VerifyResult bad = verify_set(folder.path() / "set", 2);
  const std::string all = fmt::format("{}", fmt::join(bad.failures, "\n"));
  EXPECT_THAT(all, HasSubstr("tiny-00001.h5', sample 2: wrong checksum"));
  EXPECT_THAT(all, HasSubstr("tiny-00002.h5"));
  EXPECT_THAT(all, testing::Not(HasSubstr("tiny-00000.h5")));
}

TEST(Pairs, AreIdentityDisjointBalancedAndDistinct) {
  const int64_t images = 20;
  const auto pairs = make_pairs(200, images, 10, 6000, 1);
  ASSERT_EQ(pairs.size(), 6000u);
  std::vector<std::set<int64_t>> people(10);
  std::set<std::pair<int64_t, int64_t>> unique;
  std::vector<int64_t> same(10, 0), different(10, 0);
  for (const Pair& pair : pairs) {
    EXPECT_NE(pair.i, pair.j);
    EXPECT_EQ(pair.same, pair.i / images == pair.j / images);
    unique.insert(std::minmax(pair.i, pair.j));
    const auto fold = static_cast<size_t>(pair.fold);
    people[fold].insert(pair.i / images);
    people[fold].insert(pair.j / images);
    ++(pair.same ? same : different)[fold];
  }
  EXPECT_EQ(unique.size(), 6000u);
  std::set<int64_t> all;
  for (size_t fold = 0; fold < 10; ++fold) {
    EXPECT_EQ(same[fold], 300);
    EXPECT_EQ(different[fold], 300);
    for (const int64_t person : people[fold])
      EXPECT_TRUE(all.insert(person).second) << "in two folds";
  }
}

TEST(Pairs, SmallSetsGiveFewer) {
  const auto pairs = make_pairs(5, 3, 10, 6000, 1);  // two folds, of 2 and 3 people
  int64_t same = 0;
  for (const Pair& pair : pairs) {
    EXPECT_LT(pair.fold, 2);
    same += pair.same;
  }
  EXPECT_EQ(same, 5 * 3) << "every pair of one person";
  EXPECT_EQ(pairs.size(), 30u);
  EXPECT_THROW(make_pairs(1, 3, 10, 6000, 1), Error);
  EXPECT_THROW(make_pairs(3, 1, 10, 6000, 1), Error);
}

TEST(Pairs, FileIsCsv) {
  const TemporaryFolder folder;
  write_pairs(folder.path() / "pairs.csv", {{0, 1, 2, true}, {1, 30, 4, false}});
  const auto bytes = read_file(folder.path() / "pairs.csv");
  EXPECT_EQ(std::string(bytes.begin(), bytes.end()), "fold,i,j,same\n0,1,2,1\n1,30,4,0\n");
  EXPECT_THAT(error_of([&] { write_pairs(folder.path() / "none" / "p.csv", {}); }),
              HasSubstr("p.csv: cannot create"));
}

}  // namespace
}  // namespace facetrain
