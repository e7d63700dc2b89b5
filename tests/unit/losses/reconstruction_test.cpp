// Patches and the loss over them, against plain loops.
#include "losses/reconstruction.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/error_of.h"

namespace facetrain {
namespace {

using at::Tensor;

TEST(Patches, AreRowColumnChannelAndBackAgain) {
  const Tensor images = at::arange(2 * 3 * 6 * 8, at::kDouble).view({2, 3, 6, 8});
  const Tensor patches = patches_of(images, 2);
  ASSERT_EQ(patches.sizes(), (std::vector<int64_t>{2, 12, 12}));
  for (int64_t b = 0; b < 2; ++b)
    for (int64_t y = 0; y < 6; ++y)
      for (int64_t x = 0; x < 8; ++x)
        for (int64_t c = 0; c < 3; ++c)
          EXPECT_EQ(patches[b][(y / 2) * 4 + x / 2][((y % 2) * 2 + x % 2) * 3 + c].item<double>(),
                    images[b][c][y][x].item<double>());
  EXPECT_TRUE(images_of(patches, 2, 6, 8).equal(images));
  expect_error([&] { patches_of(images, 4); }, {"4 pixels do not divide an image of 6 x 8"});
}

TEST(Patches, AreNormalisedByTheirUnbiasedVariance) {
  const Tensor patches = (at::arange(40, at::kDouble) * 0.7).sin().view({1, 4, 10});
  const Tensor found = normalise_patches(patches);
  for (int64_t p = 0; p < 4; ++p) {
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < 10; ++i) mean += patches[0][p][i].item<double>() / 10;
    for (int64_t i = 0; i < 10; ++i)
      variance += std::pow(patches[0][p][i].item<double>() - mean, 2) / 9;
    for (int64_t i = 0; i < 10; ++i)
      EXPECT_NEAR(found[0][p][i].item<double>(),
                  (patches[0][p][i].item<double>() - mean) / std::sqrt(variance + 1e-6), 1e-12);
  }
  EXPECT_TRUE(normalise_patches(at::ones({1, 1, 4})).eq(0).all().item<bool>()) << "a flat patch";
}

TEST(MaskedError, IsTheMeanOverRemovedPatches) {
  const Tensor a = (at::arange(24, at::kDouble) * 0.3).sin().view({2, 4, 3}), b = (a * 2 + 1).cos();
  const Tensor removed = at::tensor({0, 1, 1, 0, 1, 0, 0, 1}, at::kLong).view({2, 4}).to(at::kBool);
  const Tensor found = masked_error(a, b, removed);
  for (int64_t row = 0; row < 2; ++row) {
    double sum = 0;
    for (int64_t p = 0; p < 4; ++p)
      for (int64_t i = 0; removed[row][p].item<bool>() && i < 3; ++i)
        sum += std::pow((a[row][p][i] - b[row][p][i]).item<double>(), 2) / 3;
    EXPECT_NEAR(found[row].item<double>(), sum / 2, 1e-12);
  }
  EXPECT_EQ(masked_error(a.to(at::kBFloat16), b.to(at::kBFloat16), removed).scalar_type(),
            at::kFloat);
}

}  // namespace
}  // namespace facetrain
