// Every registered transform keeps its promises; and each augmentation against its formula.
#include <gtest/gtest.h>

#include <array>
#include <cmath>

#include "core/random.h"
#include "core/torch.h"
#include "data/transform.h"
#include "tests/support/data_support.h"

namespace facetrain {
namespace {

std::shared_ptr<Transform> make(const std::string& yaml) {
  return Transforms::get().create(Config::parse(yaml));
}

at::Tensor picture(int64_t height = 24, int64_t width = 31) {
  const at::Tensor wave = (at::arange(height * width * 3, at::kDouble) * 0.37).sin() * 90 + 120;
  return (wave + at::arange(height * width * 3, at::kDouble).remainder(3) * 20)
      .to(at::kByte)
      .view({height, width, 3});
}

Sample sample_of(const at::Tensor& image) {
  Sample sample;
  sample.fields["image"] = image.clone();
  sample.fields["landmarks5"] = at::arange(10, at::kFloat).view({5, 2});
  sample.fields["mask"] = at::ones({image.size(0), image.size(1)}, at::kByte);
  return sample;
}

at::Tensor applied(const std::string& yaml, const at::Tensor& image, uint64_t key = 1) {
  Sample sample = sample_of(image);
  make(yaml)->apply(sample, key);
  return sample.fields.at("image");
}

double difference(const at::Tensor& a, const at::Tensor& b) {
  return (a.to(at::kDouble) - b.to(at::kDouble)).abs().max().item<double>();
}

class EveryTransform : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryTransform, IsAFunctionOfTheKeyAndTakesItsShare) {
  const auto some = make("{name: " + GetParam() + ", p: 0.25}");
  int64_t changed = 0, different = 0;
  at::Tensor last;
  constexpr int64_t kDraws = 600;
  for (uint64_t key = 0; key < kDraws; ++key) {
    Sample a = sample_of(picture()), b = sample_of(picture());
    some->apply(a, mix_bits(key));
    some->apply(b, mix_bits(key));
    const at::Tensor image = a.fields.at("image");
    ASSERT_TRUE(image.equal(b.fields.at("image"))) << key;
    ASSERT_EQ(image.sizes(), picture().sizes());
    ASSERT_EQ(image.scalar_type(), at::kByte);
    ASSERT_TRUE(image.is_contiguous());
    if (image.equal(picture())) continue;
    ++changed;
    different += last.defined() && !last.equal(image);
    last = image;
  }
  // A drawn amount may be none at all, so a little less than the share is fine.
  EXPECT_NEAR(static_cast<double>(changed), 0.25 * kDraws, 5 * std::sqrt(kDraws * 0.25 * 0.75));
  const bool one_result =
      GetParam() == "flip" || GetParam() == "grayscale" || GetParam() == "solarize";
  EXPECT_GT(different, one_result ? -1 : changed / 2);
  EXPECT_TRUE(applied("{name: " + GetParam() + ", p: 0}", picture()).equal(picture()));
}

// `views` has no share of its own: views_test.cpp.
std::vector<std::string> transforms_of_one_image() {
  auto names = Transforms::get().names();
  std::erase(names, "views");
  return names;
}
INSTANTIATE_TEST_SUITE_P(Registry, EveryTransform, ::testing::ValuesIn(transforms_of_one_image()));

at::Tensor grey_of(const at::Tensor& image) {
  const at::Tensor weights = at::tensor({0.299, 0.587, 0.114}, at::kDouble);
  return (image.to(at::kDouble) * weights).sum(2, true);
}

TEST(ColorJitter, IsABlendWithBlackMeanOrGrey) {
  const at::Tensor image = picture(), exact = image.to(at::kDouble), grey = grey_of(image);
  const auto only = [&](const std::string& name, double factor) {
    const auto off = [&](const char* other) {
      return name == other ? "" : fmt::format(", {}: 0", other);
    };
    return applied(fmt::format("{{name: color_jitter, p: 1, {}: [{}, {}]{}{}{}}}", name, factor,
                               factor, off("brightness"), off("contrast"), off("saturation")),
                   image);
  };
  for (const double factor : {0.0, 0.4, 1.0, 1.7}) {
    const auto blend = [&](const at::Tensor& base) {
      return (base + factor * (exact - base)).round().clamp(0, 255);
    };
    EXPECT_LE(difference(only("brightness", factor), blend(at::zeros_like(grey))), 1);
    EXPECT_LE(difference(only("contrast", factor), blend(grey.mean())), 1);
    EXPECT_LE(difference(only("saturation", factor), blend(grey)), 1);
  }
}

// Hue, saturation and value by the textbook's cases, in double.
std::array<double, 3> turned(std::array<double, 3> rgb, double degrees) {
  const double high = std::max({rgb[0], rgb[1], rgb[2]}), low = std::min({rgb[0], rgb[1], rgb[2]});
  const double chroma = high - low;
  double hue = 0;
  if (chroma > 0 && high == rgb[0]) hue = 60 * (rgb[1] - rgb[2]) / chroma;
  if (chroma > 0 && high == rgb[1] && high != rgb[0]) hue = 60 * (rgb[2] - rgb[0]) / chroma + 120;
  if (chroma > 0 && high == rgb[2] && high != rgb[0] && high != rgb[1])
    hue = 60 * (rgb[0] - rgb[1]) / chroma + 240;
  hue = std::fmod(hue + degrees + 720, 360);
  const double x = chroma * (1 - std::abs(std::fmod(hue / 60, 2) - 1));
  const std::array<std::array<double, 3>, 6> sectors{{{chroma, x, 0},
                                                      {x, chroma, 0},
                                                      {0, chroma, x},
                                                      {0, x, chroma},
                                                      {x, 0, chroma},
                                                      {chroma, 0, x}}};
  auto result = sectors[static_cast<size_t>(hue / 60)];
  for (double& channel : result) channel += low;
  return result;
}

TEST(ColorJitter, TurnsTheHue) {
  const at::Tensor image = picture();
  for (const double degrees : {-77.0, 15.0, 120.0, 300.0}) {
    const at::Tensor found = applied(
        fmt::format("{{name: color_jitter, p: 1, brightness: 0, contrast: 0, saturation: 0, "
                    "hue: [{}, {}]}}",
                    degrees, degrees),
        image);
    for (int64_t i = 0; i < image.numel() / 3; ++i) {
      const auto* from = image.const_data_ptr<uint8_t>() + 3 * i;
      const auto wanted = turned({double(from[0]), double(from[1]), double(from[2])}, degrees);
      for (int c = 0; c < 3; ++c)
        ASSERT_NEAR(found.const_data_ptr<uint8_t>()[3 * i + c], wanted[c], 0.51) << degrees;
    }
  }
  EXPECT_TRUE(applied("{name: color_jitter, p: 1, brightness: 0, contrast: 0, saturation: 0, "
                      "hue: [360, 360]}",
                      image)
                  .equal(image));
}

TEST(ColorJitter, RefusesRangesThatAreNone) {
  expect_error([] { make("{name: color_jitter, brightness: [2, 1]}"); }, {"brightness", "2 and 1"});
  expect_error([] { make("{name: color_jitter, hue: [1, 2, 3]}"); }, {"hue", "3 numbers"});
  expect_error([] { make("{name: color_jitter, contrast: [-1, 1]}"); }, {"contrast", "-1"});
}

TEST(Grayscale, IsTheWeightedSum) {
  const at::Tensor found = applied("{name: grayscale, p: 1}", picture());
  EXPECT_LE(difference(found, grey_of(picture()).expand({24, 31, 3})), 0.5);
  EXPECT_TRUE(found.select(2, 0).equal(found.select(2, 2)));
}

TEST(Blur, IsAConvolutionWithAGaussian) {
  const at::Tensor image = picture();
  const double deviation = 1.3;
  const int64_t radius = 4;  // 3 deviations, rounded up
  const at::Tensor x = at::arange(-radius, radius + 1, at::kDouble) / deviation;
  const at::Tensor line = (-0.5 * x.square()).exp() / (-0.5 * x.square()).exp().sum();
  const at::Tensor planes = image.to(at::kDouble).permute({2, 0, 1}).unsqueeze(1);
  const at::Tensor wanted =
      at::conv2d(at::replication_pad2d(planes, {radius, radius, radius, radius}),
                 at::outer(line, line).view({1, 1, 2 * radius + 1, 2 * radius + 1}))
          .squeeze(1)
          .permute({1, 2, 0});
  const at::Tensor found = applied("{name: blur, p: 1, smallest: 1.3, largest: 1.3}", image);
  EXPECT_LE(difference(found, wanted), 0.501);
  const at::Tensor flat = at::full_like(image, 77);
  EXPECT_TRUE(applied("{name: blur, p: 1}", flat).equal(flat));
  expect_error([] { make("{name: blur, smallest: 2, largest: 1}"); }, {"smallest <= largest"});
}

TEST(LowResolution, BilinearIsTwoBilinearResizes) {
  const at::Tensor image = picture(24, 30);
  const at::Tensor found =
      applied("{name: low_resolution, p: 1, smallest: 0.5, largest: 0.5, filter: bilinear}", image);
  const at::Tensor planes = image.permute({2, 0, 1}).unsqueeze(0).to(at::kFloat);
  const at::Tensor small = at::upsample_bilinear2d(planes, {12, 15}, false).round();
  const at::Tensor wanted =
      at::upsample_bilinear2d(small, {24, 30}, false).squeeze(0).permute({1, 2, 0});
  EXPECT_LE(difference(found, wanted), 0.501);
  EXPECT_TRUE(applied("{name: low_resolution, p: 1, smallest: 1, largest: 1}", image).equal(image))
      << "no filter changes an image that keeps its size";
}

TEST(LowResolution, EveryFilterKeepsAFlatPictureAndOneOfATinySideIsFlat) {
  const at::Tensor flat = at::full({9, 8, 3}, 130, at::kByte);
  for (uint64_t key = 0; key < 40; ++key) {
    EXPECT_TRUE(applied("{name: low_resolution, p: 1}", flat, mix_bits(key)).equal(flat));
    const at::Tensor found = applied("{name: low_resolution, p: 1, smallest: 0.01, largest: 0.01}",
                                     picture(), mix_bits(key));
    EXPECT_TRUE(found.equal(found.narrow(0, 0, 1).narrow(1, 0, 1).expand_as(found)));
  }
}

TEST(PartialCrop, KeepsOneRectangleInItsPlace) {
  const at::Tensor image = picture(40, 40).clamp_min(1);
  double smallest = 1, largest = 0;
  for (uint64_t key = 0; key < 300; ++key) {
    Sample sample = sample_of(image);
    make("{name: partial_crop, p: 1}")->apply(sample, mix_bits(key));
    const at::Tensor found = sample.fields.at("image"), mask = sample.fields.at("mask");
    const at::Tensor kept = found.ne(0).all(2);
    ASSERT_TRUE(at::where(kept.unsqueeze(2), image, 0).equal(found));
    ASSERT_TRUE(mask.equal(kept.to(at::kByte))) << "what is black is background";
    const double rows = kept.any(1).sum().item<double>(),
                 columns = kept.any(0).sum().item<double>();
    ASSERT_EQ(rows * columns, kept.sum().item<double>()) << "a rectangle";
    const double area = rows * columns / 1600, ratio = columns / rows;
    ASSERT_GT(area, 0.17);
    ASSERT_TRUE(ratio > 0.7 && ratio < 1.42) << ratio;
    smallest = std::min(smallest, area);
    largest = std::max(largest, area);
    ASSERT_TRUE(sample.fields.at("landmarks5").equal(sample_of(image).fields.at("landmarks5")));
  }
  EXPECT_LT(smallest, 0.3);
  EXPECT_GT(largest, 0.9);
}

TEST(Solarize, InvertsFromTheThresholdOn) {
  const at::Tensor image = picture();
  const at::Tensor found = applied("{name: solarize, p: 1, threshold: 100}", image);
  EXPECT_TRUE(found.equal(at::where(image >= 100, 255 - image, image)));
}

TEST(RandomErasing, ChangesOneRectangleOfTheWantedSize) {
  const at::Tensor image = at::full({40, 50, 3}, 7, at::kByte);
  for (uint64_t key = 1; key < 60; ++key) {
    const at::Tensor found =
        applied("{name: random_erasing, p: 1, smallest: 0.1, largest: 0.2, ratio: 2, fill: grey}",
                image, key);
    const at::Tensor changed = (found != image).any(2), rows = changed.any(1),
                     columns = changed.any(0);
    const auto height = rows.sum().item<int64_t>(), width = columns.sum().item<int64_t>();
    EXPECT_EQ(changed.sum().item<int64_t>(), height * width) << "one rectangle";
    EXPECT_NEAR(static_cast<double>(height * width) / 2000, 0.15, 0.06);
    EXPECT_LE(std::abs(std::log(static_cast<double>(width) / static_cast<double>(height))),
              std::log(2) + 0.1);
    EXPECT_TRUE(found.masked_select(changed.unsqueeze(2)).eq(128).all().item<bool>());
  }
}

TEST(ResizedCrop, CutsResizesAndMovesPointsAndMask) {
  // A ramp: the value of a pixel says where it came from, so labels can be held to pixels.
  const int64_t height = 60, width = 80;
  const at::Tensor x = at::arange(width).view({1, width, 1}).expand({height, width, 1}) * 3;
  const at::Tensor y = at::arange(height).view({height, 1, 1}).expand({height, width, 1}) * 4;
  const at::Tensor image = at::cat({x, y, x}, 2).to(at::kByte).contiguous();
  double smallest = 1, largest = 0;
  for (uint64_t key = 1; key < 80; ++key) {
    Sample sample;
    sample.fields["image"] = image.clone();
    sample.fields["mask"] = (at::arange(width).view({1, width}).expand({height, width}) >= 40)
                                .to(at::kByte)
                                .contiguous();
    sample.fields["landmarks5"] =
        at::tensor({40.f, 30.f, 20.f, 10.f, 60.f, 50.f, 30.f, 40.f, 50.f, 20.f}).view({5, 2});
    make("{name: resized_crop, size: 32, smallest: 0.2, largest: 0.9, ratio: 1.5}")
        ->apply(sample, key);
    const at::Tensor found = sample.fields.at("image").to(at::kFloat);
    ASSERT_EQ(found.sizes(), (std::vector<int64_t>{32, 32, 3}));
    // Source pixels per output pixel, from the middle of the ramp.
    const double scale_x = (found[16][26][0] - found[16][6][0]).item<double>() / 3 / 20;
    const double scale_y = (found[26][16][1] - found[6][16][1]).item<double>() / 4 / 20;
    const double share = scale_x * scale_y * 32 * 32 / static_cast<double>(height * width);
    smallest = std::min(smallest, share);
    largest = std::max(largest, share);
    const at::Tensor points = sample.fields.at("landmarks5");
    for (int64_t k = 0; k < 5; ++k) {
      const auto px = points[k][0].item<double>(), py = points[k][1].item<double>();
      if (px < 2 || py < 2 || px > 29 || py > 29) continue;
      const std::array<std::array<double, 2>, 5> from{
          {{40, 30}, {20, 10}, {60, 50}, {30, 40}, {50, 20}}};
      const at::Tensor pixel = found[std::lround(py)][std::lround(px)];
      EXPECT_NEAR(pixel[0].item<double>() / 3, from[static_cast<size_t>(k)][0], scale_x + 0.5);
      EXPECT_NEAR(pixel[1].item<double>() / 4, from[static_cast<size_t>(k)][1], scale_y + 0.5);
    }
    const at::Tensor mask = sample.fields.at("mask"), right = found.select(2, 0) >= 120;
    EXPECT_LE((mask.to(at::kBool) != right).sum().item<int64_t>(), 2 * 32);
  }
  EXPECT_NEAR(smallest, 0.2, 0.05);
  EXPECT_NEAR(largest, 0.9, 0.05);
}

TEST(ResizedCrop, WhatNeverFitsBecomesTheCentre) {
  // One row of pixels: no draw of ratio 3/4 ... 4/3 and the whole area fits.
  const at::Tensor image = picture(10, 200);
  const at::Tensor found =
      applied("{name: resized_crop, size: 10, smallest: 1, largest: 1}", image);
  // ratio 4/3 of height 10: 13 pixels from (200 - 13) / 2 on; what comes out of those.
  const at::Tensor centre = image.narrow(1, 93, 13).contiguous();
  EXPECT_LE(difference(found, applied("{name: resized_crop, size: 10, p: 0}", centre)), 0);
}

}  // namespace
}  // namespace facetrain
