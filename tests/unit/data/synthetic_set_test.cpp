#include "data/synthetic_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "data/source.h"
#include "data/synthetic_faces.h"
#include "tests/support/data_support.h"

namespace facetrain {
namespace {

namespace fs = std::filesystem;

SyntheticSetOptions small(const fs::path& out, int64_t jobs) {
  SyntheticSetOptions options;
  options.out = out;
  options.identities = 3;
  options.images = 4;
  options.seed = 5;
  options.size = 48;
  options.test_identities = 4;
  options.jobs = jobs;
  options.shard_images = 5;
  return options;
}

TEST(SyntheticSet, HoldsExactlyTheRenderedFaces) {
  const TemporaryFolder folder;
  const auto result = write_synthetic_set(small(folder.path() / "set", 2));
  EXPECT_EQ(result.train.records, 12);
  EXPECT_EQ(result.test.records, 16);
  const auto train =
      open_source((folder.path() / "set").string(), {.size = 48, .fit = "error", .columns = {}});
  const auto test = open_source((folder.path() / "set-test").string(), {});
  ASSERT_EQ(train->size(), 12);
  EXPECT_EQ(train->identities(), 3);
  EXPECT_EQ(test->identities(), 4);
  struct Place {
    const Source& source;
    int64_t index, person, image;
  };
  for (const auto& [source, index, person, image] :
       std::vector<Place>{{*train, 6, 1, 2}, {*test, 9, 5, 1}}) {
    const SyntheticFace face = render_synthetic_face({5, 48, true}, person, image);
    const Sample sample = source.read(index);
    EXPECT_EQ(sample.fields.at("identity").item<int64_t>(), index / 4);
    const auto same = [&](const char* name, const auto& wanted) {
      const at::Tensor found = sample.fields.at(name);
      ASSERT_EQ(found.nbytes(), wanted.size() * sizeof(wanted[0])) << name;
      EXPECT_EQ(std::memcmp(found.const_data_ptr(), wanted.data(), found.nbytes()), 0) << name;
    };
    same("landmarks5", face.landmarks5);
    same("landmarks68", face.landmarks68);
    same("visibility68", face.visibility68);
    same("pose", face.pose);
    same("gaze", face.gaze);
    same("attributes", face.attributes);
    same("mask", face.mask.pixels);
    EXPECT_EQ(sample.fields.at("expression").item<int64_t>(), face.expression);
    EXPECT_EQ(sample.fields.at("age_group").item<int64_t>(), face.age_group);
    EXPECT_EQ(sample.fields.at("age").item<float>(), face.age);
    EXPECT_EQ(sample.fields.at("quality").item<float>(), face.quality);
    const Image stored = decode_image(encode_jpeg(face.image, face.jpeg_quality));
    same("image", stored.pixels);
  }
  for (const Column& column : train->columns()) {
    EXPECT_TRUE(column.complete);
    const auto classes = static_cast<int64_t>(column.classes.size());
    EXPECT_TRUE(column.name != "mask" || classes == 11);
    EXPECT_TRUE(column.name != "attributes" || classes == column.shape.at(0));
  }
  EXPECT_TRUE(fs::exists(folder.path() / "set-test" / "pairs.csv"));
}

TEST(SyntheticSet, SameBytesForAnyNumberOfJobs) {
  const TemporaryFolder folder;
  write_synthetic_set(small(folder.path() / "a" / "set", 1));
  write_synthetic_set(small(folder.path() / "b" / "set", 3));
  for (const char* split : {"set", "set-test"}) {
    for (const auto& entry : fs::directory_iterator(folder.path() / "a" / split))
      EXPECT_EQ(read_file(entry.path()),
                read_file(folder.path() / "b" / split / entry.path().filename()))
          << entry.path();
  }
}

TEST(SyntheticSet, BadNumbersAreErrors) {
  const TemporaryFolder folder;
  auto options = small(folder.path() / "set", 1);
  options.test_identities = 1;
  EXPECT_THROW(write_synthetic_set(options), Error);
  options = small(folder.path() / "set", 1);
  options.size = 3;
  EXPECT_THROW(write_synthetic_set(options), Error);
  EXPECT_FALSE(fs::exists(folder.path() / "set"));
}

}  // namespace
}  // namespace facetrain
