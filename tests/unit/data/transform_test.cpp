#include "data/transform.h"

#include <gtest/gtest.h>

#include "core/random.h"
#include "data/loader.h"
#include "tests/support/data_support.h"

namespace facetrain {
namespace {

std::shared_ptr<Transform> make(const std::string& yaml) {
  return Transforms::get().create(Config::parse(yaml));
}

Sample full_sample() {
  Sample sample;
  sample.fields["image"] = at::arange(5 * 7 * 3, at::kByte).reshape({5, 7, 3});
  sample.fields["landmarks5"] = at::arange(10, at::kFloat).reshape({5, 2}) * 0.5;
  sample.fields["landmarks68"] = at::arange(136, at::kFloat).reshape({68, 2});
  sample.fields["visibility68"] = at::arange(68, at::kByte);
  sample.fields["pose"] = at::tensor({10.0f, 20.0f, 30.0f});
  sample.fields["gaze"] = at::tensor({-4.0f, 5.0f});
  sample.fields["mask"] = at::arange(5 * 7, at::kByte).reshape({5, 7}) % 11;
  sample.fields["attributes"] = at::tensor({1, 0, 1}, at::kByte);
  sample.fields["identity"] = at::scalar_tensor(3, at::kLong);
  return sample;
}

Sample copy(const Sample& sample) {
  Sample result = sample;
  for (auto& [name, tensor] : result.fields) tensor = tensor.clone();
  return result;
}

// iBUG 300-W numbering, from 1, as published with the annotation: mirrored point of each point.
constexpr int kMirror68[68] = {17, 16, 15, 14, 13, 12, 11, 10, 9,  8,  7,  6,  5,  4,  3,  2,  1,
                               27, 26, 25, 24, 23, 22, 21, 20, 19, 18, 28, 29, 30, 31, 36, 35, 34,
                               33, 32, 46, 45, 44, 43, 48, 47, 40, 39, 38, 37, 42, 41, 55, 54, 53,
                               52, 51, 50, 49, 60, 59, 58, 57, 56, 65, 64, 63, 62, 61, 68, 67, 66};

TEST(Flip, MirrorsEveryLabelThatHasSides) {
  const Sample before = full_sample();
  Sample after = copy(before);
  make("{name: flip, p: 1}")->apply(after, 1);
  EXPECT_TRUE(after.fields["image"].equal(before.fields.at("image").flip(1)));
  const at::Tensor five = before.fields.at("landmarks5");
  for (const auto& [to, from] :
       std::map<int64_t, int64_t>{{0, 1}, {1, 0}, {2, 2}, {3, 4}, {4, 3}}) {
    EXPECT_FLOAT_EQ(after.fields["landmarks5"][to][0].item<float>(),
                    6 - five[from][0].item<float>());
    EXPECT_FLOAT_EQ(after.fields["landmarks5"][to][1].item<float>(), five[from][1].item<float>());
  }
  for (int64_t to = 0; to < 68; ++to) {
    const int64_t from = kMirror68[to] - 1;
    const at::Tensor point = before.fields.at("landmarks68")[from];
    EXPECT_FLOAT_EQ(after.fields["landmarks68"][to][0].item<float>(), 6 - point[0].item<float>());
    EXPECT_FLOAT_EQ(after.fields["landmarks68"][to][1].item<float>(), point[1].item<float>());
    EXPECT_EQ(after.fields["visibility68"][to].item<int64_t>(), from);
  }
  EXPECT_TRUE(after.fields["pose"].equal(at::tensor({-10.0f, 20.0f, -30.0f})));
  EXPECT_TRUE(after.fields["gaze"].equal(at::tensor({4.0f, 5.0f})));
  const at::Tensor mask = before.fields.at("mask").flip(1);
  for (int64_t i = 0; i < 35; ++i) {
    const int64_t was = mask.flatten()[i].item<int64_t>();
    const int64_t wanted = was == 2 ? 3 : was == 3 ? 2 : was == 4 ? 5 : was == 5 ? 4 : was;
    EXPECT_EQ(after.fields["mask"].flatten()[i].item<int64_t>(), wanted);
  }
  EXPECT_TRUE(after.fields["attributes"].equal(before.fields.at("attributes")));
}

TEST(Flip, TwiceIsTheOriginal) {
  const Sample before = full_sample();
  Sample after = copy(before);
  for (const uint64_t key : {1, 2}) make("{name: flip, p: 1}")->apply(after, key);
  for (const auto& [name, tensor] : before.fields)
    EXPECT_TRUE(after.fields[name].equal(tensor)) << name;
}

TEST(Flip, DependsOnTheKeyOnlyAndHasItsShare) {
  const auto flip = make("{name: flip, p: 0.3}");
  const Sample before = full_sample();
  int64_t flipped = 0;
  for (uint64_t position = 0; position < 4000; ++position) {
    Sample a = copy(before), b = copy(before);
    flip->apply(a, random_key(1, position, name_key("flip")));
    flip->apply(b, random_key(1, position, name_key("flip")));
    ASSERT_TRUE(a.fields["image"].equal(b.fields["image"]));
    flipped += !a.fields["image"].equal(before.fields.at("image"));
  }
  EXPECT_NEAR(static_cast<double>(flipped), 1200, 5 * std::sqrt(4000 * 0.3 * 0.7));
  Sample never = copy(before);
  make("{name: flip, p: 0}")->apply(never, 5);
  EXPECT_TRUE(never.fields["image"].equal(before.fields.at("image")));
}

TEST(Normalise, IsTheFormulaInEveryType) {
  const at::Tensor images = at::randint(0, 256, {3, 5, 7, 3}, at::kByte);
  const Normalization uneven{{10, 20, 30}, {3, 50, 70}};
  for (const auto& normalization : {Normalization{}, uneven}) {
    const at::Tensor exact =
        (images.to(at::kDouble) - at::tensor(normalization.mean, at::kDouble)) /
        at::tensor(normalization.deviation, at::kDouble);
    const at::Tensor wanted = exact.permute({0, 3, 1, 2});
    EXPECT_TRUE(normalise(images, normalization, at::kDouble).equal(wanted));
    const at::Tensor single = normalise(images, normalization, at::kFloat);
    EXPECT_TRUE(single.is_contiguous(at::MemoryFormat::ChannelsLast));
    const at::Tensor by_ops =
        ((images.to(at::kFloat) - at::tensor(normalization.mean, at::kFloat)) /
         at::tensor(normalization.deviation, at::kFloat))
            .permute({0, 3, 1, 2});
    EXPECT_TRUE(single.equal(by_ops)) << "the bits of PyTorch's own arithmetic";
    for (const auto type : {at::kBFloat16, at::kHalf})
      EXPECT_TRUE(normalise(images, normalization, type).equal(by_ops.to(type)));
  }
  EXPECT_THROW(normalise(images.to(at::kFloat), {}, at::kFloat), Error);
  EXPECT_THROW(normalise(images, {}, at::kLong), Error);
}

TEST(Normalise, ParsesWhatTheConfigurationWrites) {
  const auto parse = [](const std::string& yaml) {
    return Normalization::parse(Config::parse(yaml).section("normalize"));
  };
  EXPECT_EQ(parse("{}").mean, (std::vector<double>{127.5, 127.5, 127.5}));
  EXPECT_EQ(parse("normalize: face").deviation, (std::vector<double>{127.5, 127.5, 127.5}));
  EXPECT_DOUBLE_EQ(parse("normalize: imagenet").mean[2], 0.406 * 255);
  EXPECT_EQ(parse("normalize: 1 2 3 4 5 6").deviation, (std::vector<double>{4, 5, 6}));
  EXPECT_EQ(parse("normalize: {mean: [1, 2, 3], deviation: 4}").deviation,
            (std::vector<double>{4, 4, 4}));
  for (const char* bad : {"normalize: faces", "normalize: 1 2 3", "normalize: {mean: [1, 2]}",
                          "normalize: {deviation: 0}", "normalize: {means: 1, mean: 1}"})
    EXPECT_THROW(parse(bad), Error) << bad;
}

}  // namespace
}  // namespace facetrain
