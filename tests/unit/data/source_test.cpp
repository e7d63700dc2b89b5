#include "data/source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/fit.h"
#include "tests/support/data_support.h"

namespace facetrain {
namespace {

using testing::HasSubstr;
namespace fs = std::filesystem;

std::vector<uint8_t> png(int64_t number, int width = 16, int height = 16) {
  return encode_png(smooth_image(number, width, height));
}

TEST(FolderSource, NumbersIdentitiesByName) {
  const TemporaryFolder folder;
  write_file(folder.path() / "b" / "2.png", png(2));
  write_file(folder.path() / "b" / "1.PNG", png(1));
  write_file(folder.path() / "a" / "deep" / "x.jpg", encode_jpeg(smooth_image(3), 90));
  write_file(folder.path() / "a" / "notes.txt", {'x'});
  write_file(folder.path() / "c" / ".hidden.png", {'x'});
  write_file(folder.path() / "d" / "one.ppm",
             {'P', '6', ' ', '1', ' ', '1', ' ', '2', '5', '5', '\n', 1, 2, 3});
  write_file(folder.path() / "a" / "3.bmp", {'x'});
  write_file(folder.path() / "readme", {'x'});
  testing::internal::CaptureStderr();
  const auto source = open_source("folder:" + folder.path().string(), {});
  const std::string warnings = testing::internal::GetCapturedStderr();
  EXPECT_THAT(warnings, HasSubstr("c' has no image"));
  EXPECT_THAT(warnings,
              HasSubstr("skipped 3 files that are not .jpg .jpeg .png .pgm .ppm (first: " +
                        (folder.path() / "a" / "3.bmp").string() + ")"));
  ASSERT_EQ(source->size(), 4);
  EXPECT_EQ(source->identities(), 3) << "the empty folder gets no number";
  EXPECT_EQ(source->key(0), "a/deep/x.jpg");
  EXPECT_EQ(source->key(1), "b/1.PNG");
  EXPECT_EQ(source->key(3), "d/one.ppm");
  const std::vector<int64_t> wanted{0, 1, 1, 2};
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_EQ(source->identity(i), wanted[i]);
    const Sample sample = source->read(i);
    EXPECT_EQ(sample.fields.at("identity").item<int64_t>(), wanted[i]);
    EXPECT_EQ(sample.index, i);
  }
  const at::Tensor image = source->read(2).fields.at("image");
  const Image expected = smooth_image(2);
  ASSERT_EQ(image.sizes(), (std::vector<int64_t>{16, 16, 3}));
  EXPECT_EQ(std::memcmp(image.const_data_ptr(), expected.pixels.data(), expected.pixels.size()), 0);
  const IdentityCounts counts = count_identities(*source);
  EXPECT_EQ(counts.single, 2);
  EXPECT_TRUE(counts.gaps.empty());
  EXPECT_EQ(counts.largest, 2);
}

TEST(FolderSource, FlatFolderHasNoIdentities) {
  const TemporaryFolder folder;
  write_file(folder.path() / "b.png", png(1));
  write_file(folder.path() / "a.png", png(2));
  const auto source = open_source("folder:" + folder.path().string(), {});
  EXPECT_EQ(source->size(), 2);
  EXPECT_EQ(source->identities(), 0);
  EXPECT_EQ(source->identity(0), -1);
  EXPECT_EQ(source->key(0), "a.png");
  EXPECT_FALSE(source->read(0).fields.contains("identity"));
}

TEST(FolderSource, BadInputSaysWhatToDo) {
  const TemporaryFolder folder;
  fs::create_directories(folder.path() / "faces");
  EXPECT_THAT(error_of([&] { open_source("folder:" + (folder.path() / "faces").string(), {}); }),
              HasSubstr("has no image"));
  EXPECT_THAT(error_of([&] { open_source("folder:" + (folder.path() / "facse").string(), {}); }),
              HasSubstr("did you mean '" + (folder.path() / "faces").string()));
  EXPECT_THAT(error_of([&] { open_source((folder.path() / "facse/").string(), {}); }),
              HasSubstr("did you mean"));
  EXPECT_THAT(error_of([&] { open_source((folder.path() / "faces").string(), {}); }),
              HasSubstr("has no shard"));
  EXPECT_THAT(error_of([&] { open_source("", {}); }), HasSubstr("data.train"));
  EXPECT_THAT(error_of([&] { open_source("sets/nope", {}); }),
              HasSubstr("there is no 'sets/nope': give a path that exists (paths are relative to "
                        "where facetrain is started: " +
                        fs::current_path().string() + ")"));
  write_file(folder.path() / "one.PNG", png(1));
  EXPECT_THAT(error_of([&] { open_source((folder.path() / "one.PNG").string(), {}); }),
              HasSubstr("one.PNG' is a picture: give its folder, or list:FILE"));
  write_file(folder.path() / "faces" / "a" / "x.png", {'n', 'o'});
  const auto source = open_source("folder:" + (folder.path() / "faces").string(), {});
  EXPECT_THAT(error_of([&] { source->read(0); }), HasSubstr("x.png"));
  EXPECT_THAT(error_of([&] { source->read(1); }), HasSubstr("has 1 samples"));
  EXPECT_THAT(error_of([&] { open_source((folder.path() / "faces").string(), {}); }),
              HasSubstr("folder:"));
}

TEST(ListSource, ReadsPathsBesideTheList) {
  const TemporaryFolder folder;
  write_file(folder.path() / "images" / "a b.png", png(1));
  write_file(folder.path() / "images" / "c.png", png(2));
  const std::string text = "images/c.png\t4\r\n\nimages/a b.png\t0\n";
  write_file(folder.path() / "list.txt", {text.begin(), text.end()});
  const std::string where = "list:" + (folder.path() / "list.txt").string();
  const std::string gaps = error_of([&] { open_source(where, {}); });
  for (const char* part : {"list.txt", "found none of: 1, 2, 3", "without gaps"})
    EXPECT_THAT(gaps, HasSubstr(part));
  ImageOptions no_labels;
  no_labels.columns.emplace();
  const auto source = open_source(where, no_labels);  // nobody asks for classes
  ASSERT_EQ(source->size(), 2);
  EXPECT_EQ(source->identity(0), 4);
  EXPECT_EQ(source->identities(), 5);
  EXPECT_EQ(source->key(1), "images/a b.png");
  EXPECT_EQ(source->name(), "list");
  const IdentityCounts counts = count_identities(*source);
  EXPECT_EQ(counts.gaps, (std::vector<int64_t>{1, 2, 3}));
  EXPECT_EQ(list_some(counts.gaps, 3), "1, 2, 3");
}

TEST(ListSource, ManyGapsAreCounted) {
  const TemporaryFolder folder;
  write_file(folder.path() / "x.png", png(1));
  const std::string text = "x.png\t2000000000\nx.png\t1\n";
  write_file(folder.path() / "list.txt", {text.begin(), text.end()});
  EXPECT_THAT(error_of([&] { open_source("list:" + (folder.path() / "list.txt").string(), {}); }),
              HasSubstr("0, 2, 3, 4, 5, 6, 7, 8, 9, 10 ... (1999999999 in all)"));
}

TEST(ImagesSource, TakesEveryImageInTheOrderOfPaths) {
  const TemporaryFolder folder;
  int64_t number = 0;
  for (const char* name : {"z.png", "a/2.png", "a/deep/1.png", "a-b/0.png", "a.png", "b/x.png"})
    write_file(folder.path() / name, png(++number));
  write_file(folder.path() / ".hidden" / "x.png", png(9));
  const auto source = open_source("images:" + folder.path().string(), {});
  std::vector<std::string> keys;
  for (int64_t i = 0; i < source->size(); ++i) keys.push_back(source->key(i));
  EXPECT_EQ(keys, (std::vector<std::string>{"a-b/0.png", "a.png", "a/2.png", "a/deep/1.png",
                                            "b/x.png", "z.png"}));
  EXPECT_EQ(source->identities(), 0);
  EXPECT_EQ(source->identity(3), -1);
  fs::create_directories(folder.path() / "empty");
  EXPECT_THAT(error_of([&] { open_source("images:" + (folder.path() / "empty").string(), {}); }),
              HasSubstr("has no image"));
}

TEST(ListSource, ErrorsNameTheLine) {
  const TemporaryFolder folder;
  write_file(folder.path() / "x.png", png(1));
  const fs::path file = folder.path() / "list.txt";
  const auto complaint = [&](const std::string& text) {
    write_file(file, {text.begin(), text.end()});
    return error_of([&] { open_source("list:" + file.string(), {}); });
  };
  EXPECT_THAT(complaint("x.png\t0\nx.png 1\n"), HasSubstr("list.txt:2: wanted `path<TAB>label`"));
  EXPECT_THAT(complaint("x.png\t0\nx.png\tten\n"), HasSubstr("list.txt:2: wanted a label"));
  EXPECT_THAT(complaint("x.png\t-1\n"), HasSubstr("list.txt:1: wanted a label"));
  EXPECT_THAT(complaint("y.png\t0\n"), HasSubstr("list.txt:1: cannot read"));
  EXPECT_THAT(complaint("\n"), HasSubstr("names no image"));
}

TEST(ShardSource, JoinsShardsInOrder) {
  const TemporaryFolder folder;
  write_test_set(folder.path() / "set", 10, 4);
  const auto source = open_source((folder.path() / "set").string(), {});
  ASSERT_EQ(source->size(), 10);
  EXPECT_EQ(source->identities(), 5);
  EXPECT_EQ(source->name(), "tiny");
  EXPECT_THAT(source->describe(9), HasSubstr("tiny-00002.h5', sample 1"));
  EXPECT_EQ(source->key(5), "person/5.jpg");
  for (int64_t i = 0; i < 10; ++i) {
    const Sample sample = source->read(i);
    EXPECT_EQ(sample.fields.at("identity").item<int64_t>(), i / 2);
    EXPECT_EQ(sample.fields.contains("age"), i % 3 != 2);
    EXPECT_FLOAT_EQ(sample.fields.at("landmarks5")[1][0].item<float>(),
                    static_cast<float>(i) + 0.5f);
    const Image decoded = decode_image(test_record(i).image);
    EXPECT_EQ(std::memcmp(sample.fields.at("image").const_data_ptr(), decoded.pixels.data(),
                          decoded.pixels.size()),
              0);
    EXPECT_EQ(sample.fields.at("mask")[0][3].item<uint8_t>(), (3 + i) % 11);
    EXPECT_FALSE(sample.fields.contains("name"));
  }
  for (const Column& column : source->columns()) EXPECT_EQ(column.complete, column.name != "age");
  EXPECT_THROW(source->read(10), Error);
  EXPECT_THROW(source->read(-1), Error);
  const auto one = open_source((folder.path() / "set" / "tiny-00001.h5").string(), {});
  EXPECT_EQ(one->size(), 4);
  EXPECT_EQ(one->identity(0), 2);
}

TEST(ShardSource, CarriesOnlyTheNamedColumns) {
  const TemporaryFolder folder;
  write_test_set(folder.path(), 4, 4);
  ImageOptions options;
  options.columns = std::vector<std::string>{"age"};
  const auto source = open_source(folder.path().string(), options);
  EXPECT_EQ(source->key(3), "tiny-00000.h5#3") << "names are not among the columns";
  const Sample sample = source->read(0);
  EXPECT_TRUE(sample.fields.contains("age"));
  EXPECT_TRUE(sample.fields.contains("identity"));
  EXPECT_FALSE(sample.fields.contains("mask"));
}

TEST(ShardSource, RefusesMixedAndUnfinishedSets) {
  const TemporaryFolder folder;
  write_test_set(folder.path() / "a", 10, 4);
  fs::remove(folder.path() / "a" / "tiny-00001.h5");
  EXPECT_THAT(error_of([&] { open_source((folder.path() / "a").string(), {}); }),
              HasSubstr("has 2 of the 3 shards"));
  write_test_set(folder.path() / "b", 4, 4, 16, "tiny");
  write_test_set(folder.path() / "b", 4, 4, 16, "other");
  EXPECT_THAT(error_of([&] { open_source((folder.path() / "b").string(), {}); }),
              HasSubstr("mixes two sets"));
}

TEST(Fit, ErrorNamesSampleSizesAndRemedy) {
  const TemporaryFolder folder;
  write_test_set(folder.path(), 2, 2);
  const auto source =
      open_source(folder.path().string(), {.size = 12, .fit = "error", .columns = {}});
  const std::string message = error_of([&] { source->read(1); });
  for (const char* part : {"sample 1", "12 x 12", "16 x 16", "data.fit=resize"})
    EXPECT_THAT(message, HasSubstr(part));
  const auto large =
      open_source(folder.path().string(), {.size = 20, .fit = "crop", .columns = {}});
  EXPECT_THAT(error_of([&] { large->read(0); }), HasSubstr("cannot crop 20 x 20"));
}

TEST(Fit, CropTakesTheCentreWithItsLabels) {
  const TemporaryFolder folder;
  write_test_set(folder.path(), 2, 2);
  const Sample whole = open_source(folder.path().string(), {})->read(1);
  const Sample part =
      open_source(folder.path().string(), {.size = 11, .fit = "crop", .columns = {}})->read(1);
  const auto window = [](const at::Tensor& t) { return t.slice(0, 2, 13).slice(1, 2, 13); };
  EXPECT_TRUE(part.fields.at("image").equal(window(whole.fields.at("image"))));
  EXPECT_TRUE(part.fields.at("mask").equal(window(whole.fields.at("mask"))));
  EXPECT_TRUE(part.fields.at("landmarks5").equal(whole.fields.at("landmarks5") - 2));
}

// A point at the middle of the stored image stays in the middle; pixel centres move by the
// half-pixel rule.
TEST(Fit, ResizeMovesLandmarksByPixelCentres) {
  const TemporaryFolder folder;
  write_test_set(folder.path(), 2, 2);
  const Sample small =
      open_source(folder.path().string(), {.size = 8, .fit = "resize", .columns = {}})->read(1);
  EXPECT_EQ(small.fields.at("image").sizes(), (std::vector<int64_t>{8, 8, 3}));
  EXPECT_EQ(small.fields.at("mask").sizes(), (std::vector<int64_t>{8, 8}));
  const at::Tensor stored =
      open_source(folder.path().string(), {})->read(1).fields.at("landmarks5");
  EXPECT_TRUE(at::allclose(small.fields.at("landmarks5"), (stored + 0.5) * 0.5 - 0.5));
  at::Tensor middle = at::tensor({7.5f, 7.5f});
  move_points(middle, place_image(16, 16, {.size = 8, .fit = "resize", .columns = {}}));
  EXPECT_FLOAT_EQ(middle[0].item<float>(), 3.5f);
  at::Tensor wide = at::tensor({0.0f, 0.0f});
  move_points(wide, place_image(4, 16, {.size = 8, .fit = "resize", .columns = {}}));
  EXPECT_FLOAT_EQ(wide[0].item<float>(), -0.25f);
  EXPECT_FLOAT_EQ(wide[1].item<float>(), 0.5f);
}

// A bright dot and its landmark end at the same place.
TEST(Fit, LandmarkFollowsThePicture) {
  const TemporaryFolder folder;
  Image dot{40, 40, 3, std::vector<uint8_t>(40 * 40 * 3, 0)};
  for (int y = 0; y < 40; ++y)
    for (int x = 0; x < 40; ++x)
      for (int c = 0; c < 3; ++c)
        dot.pixels[static_cast<size_t>((y * 40 + x) * 3 + c)] = static_cast<uint8_t>(
            std::lround(250 * std::exp(-(std::pow(x - 12.0, 2) + std::pow(y - 25.0, 2)) / 30.0)));
  ShardWriter writer(folder.path() / "x.h5", {"x", "x", 0, 1}, {standard_column("landmarks5")});
  ShardRecord record;
  record.image = encode_png(dot);
  const std::vector<float> points{12, 25, 12, 25, 12, 25, 12, 25, 12, 25};
  record.set("landmarks5", std::span<const float>(points));
  writer.add(record);
  writer.finish();
  for (const int64_t size : {24, 16, 56}) {
    const Sample sample = open_source((folder.path() / "x.h5").string(),
                                      {.size = size, .fit = "resize", .columns = {}})
                              ->read(0);
    const at::Tensor light = sample.fields.at("image").to(at::kDouble).sum(2);
    const at::Tensor range = at::arange(size, at::kDouble);
    const double x = ((light.sum(0) * range).sum() / light.sum()).item<double>();
    const double y = ((light.sum(1) * range).sum() / light.sum()).item<double>();
    EXPECT_NEAR(sample.fields.at("landmarks5")[0][0].item<float>(), x, 0.1) << size;
    EXPECT_NEAR(sample.fields.at("landmarks5")[0][1].item<float>(), y, 0.1) << size;
  }
}

TEST(Source, DecodesIntoTheRoomGiven) {
  const TemporaryFolder folder;
  write_test_set(folder.path(), 2, 2);
  const auto source = open_source(folder.path().string(), {});
  at::Tensor room = at::zeros({16, 16, 3}, at::kByte);
  const Sample sample = source->read_into(0, room);
  EXPECT_EQ(sample.fields.at("image").const_data_ptr(), room.const_data_ptr());
  EXPECT_TRUE(room.equal(source->read(0).fields.at("image")));
  const at::Tensor small = at::zeros({8, 8, 3}, at::kByte);
  EXPECT_EQ(source->read_into(0, small).fields.at("image").size(0), 16);
}

// Every registered source: the contract that samplers and the loader rely on.
class SourceConformance : public testing::TestWithParam<std::string> {};

TEST_P(SourceConformance, KeepsTheContract) {
  const TemporaryFolder folder;
  std::string where;
  if (GetParam() == "shards") {
    write_test_set(folder.path() / "set", 6, 4);
    where = (folder.path() / "set").string();
  } else {
    write_tiny_faces(folder.path() / "faces", 3, 2, 8);
    where = GetParam() + ":" + (folder.path() / "faces").string();
    if (GetParam() == "list") {
      const std::string text =
          "faces/id_000/000.ppm\t0\nfaces/id_000/001.ppm\t0\nfaces/id_001/000.ppm\t1\n"
          "faces/id_001/001.ppm\t1\nfaces/id_002/000.ppm\t2\nfaces/id_002/001.ppm\t2\n";
      write_file(folder.path() / "list", {text.begin(), text.end()});
      where = "list:" + (folder.path() / "list").string();
    } else {
      ASSERT_TRUE(GetParam() == "folder" || GetParam() == "images")
          << "a new source needs its data here";
    }
  }
  const auto source = open_source(where, {});
  ASSERT_EQ(source->size(), 6);
  const bool labelled = GetParam() != "images";
  EXPECT_EQ(source->identities(), labelled ? 3 : 0);
  for (int64_t i = 0; i < 6; ++i) {
    const Sample a = source->read(i), b = source->read(i);
    ASSERT_EQ(a.fields.contains("identity"), labelled);
    EXPECT_EQ(labelled ? a.fields.at("identity").item<int64_t>() : -1, source->identity(i));
    EXPECT_EQ(a.fields.at("image").scalar_type(), at::kByte);
    EXPECT_TRUE(a.fields.at("image").equal(b.fields.at("image")));
    EXPECT_NE(a.fields.at("image").const_data_ptr(), b.fields.at("image").const_data_ptr());
    EXPECT_FALSE(source->describe(i).empty());
    for (const Column& column : source->columns()) {
      EXPECT_TRUE(!column.complete || a.fields.contains(column.name)) << column.name;
    }
  }
  EXPECT_THROW(source->read(6), Error);
}

INSTANTIATE_TEST_SUITE_P(All, SourceConformance, testing::ValuesIn(Sources::get().names()));

}  // namespace
}  // namespace facetrain
