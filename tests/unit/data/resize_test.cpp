#include "data/resize.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/check.h"
#include "core/random.h"

namespace facetrain {
namespace {

std::vector<uint8_t> noise(int64_t count, uint64_t key) {
  Random random(random_key(key));
  std::vector<uint8_t> values(static_cast<size_t>(count));
  for (auto& value : values) value = static_cast<uint8_t>(random.below(256));
  return values;
}

// The definition in float64: a triangle of half-width max(scale, 1), normalised over the pixels
// that exist.
double reference(const std::vector<uint8_t>& in, int64_t height, int64_t width, int64_t channels,
                 int64_t out_height, int64_t out_width, int64_t y, int64_t x, int64_t c) {
  const auto weight = [](int64_t i, int64_t in_size, int64_t out_size, int64_t o) {
    const double scale = static_cast<double>(in_size) / static_cast<double>(out_size);
    const double centre = (static_cast<double>(o) + 0.5) * scale;
    return std::max(0.0,
                    1 - std::abs(static_cast<double>(i) + 0.5 - centre) / std::max(scale, 1.0));
  };
  double sum = 0, total = 0;
  for (int64_t i = 0; i < height; ++i)
    for (int64_t j = 0; j < width; ++j) {
      const double w = weight(i, height, out_height, y) * weight(j, width, out_width, x);
      sum += w * in[static_cast<size_t>((i * width + j) * channels + c)];
      total += w;
    }
  return sum / total;
}

struct Case {
  int64_t height, width, out_height, out_width;
};

TEST(Resize, AgreesWithTheDefinitionInDouble) {
  for (const Case& s :
       {Case{20, 30, 7, 11}, Case{9, 8, 20, 17}, Case{16, 16, 8, 8}, Case{13, 5, 6, 11},
        Case{1, 3, 4, 2}, Case{40, 40, 1, 1}, Case{30, 31, 29, 30}}) {
    const auto in = noise(s.height * s.width * 3, 5);
    std::vector<uint8_t> out(static_cast<size_t>(s.out_height * s.out_width * 3));
    resize_image(in, s.height, s.width, 3, out, s.out_height, s.out_width);
    for (int64_t y = 0; y < s.out_height; ++y)
      for (int64_t x = 0; x < s.out_width; ++x)
        for (int64_t c = 0; c < 3; ++c)
          ASSERT_NEAR(out[static_cast<size_t>((y * s.out_width + x) * 3 + c)],
                      reference(in, s.height, s.width, 3, s.out_height, s.out_width, y, x, c), 0.6)
              << s.height << "x" << s.width << " -> " << s.out_height << "x" << s.out_width;
  }
}

TEST(Resize, SameSizeIsTheSameImage) {
  const auto in = noise(12 * 9 * 3, 6);
  std::vector<uint8_t> out(in.size());
  resize_image(in, 12, 9, 3, out, 12, 9);
  EXPECT_EQ(out, in);
  resize_nearest(in, 12, 9, 3, out, 12, 9);
  EXPECT_EQ(out, in);
}

TEST(Resize, FlatImagesStayFlat) {
  for (const int value : {0, 1, 127, 254, 255}) {
    const std::vector<uint8_t> in(37 * 23, static_cast<uint8_t>(value));
    std::vector<uint8_t> out(11 * 50);
    resize_image(in, 37, 23, 1, out, 11, 50);
    for (const uint8_t pixel : out) ASSERT_EQ(pixel, value);
  }
}

TEST(Resize, NearestTakesThePixelUnderTheCentre) {
  const std::vector<uint8_t> in{0, 1, 2, 3, 4, 5};
  std::vector<uint8_t> half(3), twice(12);
  resize_nearest(in, 1, 6, 1, half, 1, 3);
  EXPECT_EQ(half, (std::vector<uint8_t>{1, 3, 5}));
  resize_nearest(in, 1, 6, 1, twice, 1, 12);
  EXPECT_EQ(twice, (std::vector<uint8_t>{0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5}));
}

TEST(Resize, WrongSizesAreErrors) {
  std::vector<uint8_t> in(12), out(3);
  EXPECT_THROW(resize_image(in, 2, 2, 3, out, 1, 2), Error);
  EXPECT_THROW(resize_image(in, 2, 1, 3, out, 1, 1), Error);
  EXPECT_THROW(resize_nearest(in, 2, 2, 3, {}, 0, 1), Error);
}

}  // namespace
}  // namespace facetrain
