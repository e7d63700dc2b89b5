#include "data/image_codec.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <string_view>
#include <thread>

#include "core/check.h"
#include "core/random.h"

namespace facetrain {
namespace {

std::vector<uint8_t> bytes_of(std::string_view text) { return {text.begin(), text.end()}; }

// Smooth pixels, so that JPEG loses little.
Image test_image(int width, int height, int channels) {
  Image image{width, height, channels, {}};
  for (int y = 0; y < height; ++y) {
    for (int x = 0; x < width; ++x) {
      for (int c = 0; c < channels; ++c) {
        image.pixels.push_back(static_cast<uint8_t>((3 * x + 2 * y + 40 * c) % 200 + 20));
      }
    }
  }
  return image;
}

Image noise_image(int width, int height, int channels) {
  Image image{width, height, channels, {}};
  Random random(random_key(7));
  image.pixels.resize(static_cast<size_t>(width) * height * channels);
  for (auto& value : image.pixels) value = static_cast<uint8_t>(random.below(256));
  return image;
}

double mean_difference(const Image& a, const Image& b) {
  double sum = 0;
  for (size_t i = 0; i < a.pixels.size(); ++i) sum += std::abs(a.pixels[i] - b.pixels[i]);
  return sum / static_cast<double>(a.pixels.size());
}

TEST(ImageCodec, JpegKeepsSizeAndNearlyThePixels) {
  const Image image = test_image(37, 21, 3);
  for (const Chroma chroma : {Chroma::k420, Chroma::k444}) {
    const auto bytes = encode_jpeg(image, 95, chroma);
    const ImageInfo info = probe_image(bytes);
    EXPECT_EQ(to_string(info.format), "jpeg");
    EXPECT_EQ(info.width, 37);
    EXPECT_EQ(info.height, 21);
    EXPECT_EQ(info.channels, 3);
    const Image decoded = decode_image(bytes);
    ASSERT_EQ(decoded.pixels.size(), image.pixels.size());
    EXPECT_LT(mean_difference(decoded, image), chroma == Chroma::k444 ? 3.0 : 12.0);
  }
}

TEST(ImageCodec, GreyJpegIsRepeatedToRgb) {
  const auto bytes = encode_jpeg(test_image(16, 16, 1), 90);
  EXPECT_EQ(probe_image(bytes).channels, 1);
  const Image decoded = decode_image(bytes);
  ASSERT_EQ(decoded.channels, 3);
  for (size_t i = 0; i < decoded.pixels.size(); i += 3) {
    EXPECT_EQ(decoded.pixels[i], decoded.pixels[i + 1]);
    EXPECT_EQ(decoded.pixels[i], decoded.pixels[i + 2]);
  }
}

TEST(ImageCodec, DamagedJpegIsAnError) {
  auto bytes = encode_jpeg(noise_image(64, 64, 3), 90);
  for (const size_t length :
       {size_t{0}, size_t{3}, size_t{30}, bytes.size() / 2, bytes.size() - 2}) {
    EXPECT_THROW(decode_image(std::span(bytes).first(length)), Error) << length;
  }
  // A marker in the middle of the scan: the library warns and would fill the rest with grey.
  bytes[bytes.size() / 2] = 0xff;
  bytes[bytes.size() / 2 + 1] = 0xd9;
  EXPECT_THROW(decode_image(bytes), Error);
}

TEST(ImageCodec, DamagedJpegHarmsNoLaterImage) {
  const auto bytes = encode_jpeg(noise_image(24, 16, 3), 90);
  const Image wanted = decode_image(bytes);
  for (size_t length = 0; length < bytes.size(); length += 7) {
    EXPECT_THROW(decode_image(std::span(bytes).first(length)), Error) << length;
    EXPECT_EQ(decode_image(bytes).pixels, wanted.pixels)
        << "after the first " << length << " bytes";
    EXPECT_THROW(probe_image(std::span(bytes).first(std::min<size_t>(length, 100))), Error);
    EXPECT_EQ(probe_image(bytes).width, 24);
  }
}

TEST(ImageCodec, PngIsExact) {
  for (const int channels : {1, 3}) {
    const Image image = noise_image(33, 17, channels);
    const auto bytes = encode_png(image);
    const ImageInfo info = probe_image(bytes);
    EXPECT_EQ(to_string(info.format), "png");
    EXPECT_EQ(info.channels, channels);
    const Image decoded = decode_image(bytes);
    ASSERT_EQ(decoded.pixels.size(), size_t{33 * 17 * 3});
    for (size_t i = 0; i < decoded.pixels.size(); ++i) {
      ASSERT_EQ(decoded.pixels[i], image.pixels[channels == 3 ? i : i / 3]);
    }
  }
}

TEST(ImageCodec, EveryTruncatedOrFlippedPngIsAnError) {
  const auto bytes = encode_png(noise_image(12, 9, 3));
  for (size_t length = 0; length < bytes.size(); ++length) {
    EXPECT_THROW(decode_image(std::span(bytes).first(length)), Error) << length;
  }
  for (size_t at = 0; at < bytes.size(); ++at) {
    auto damaged = bytes;
    damaged[at] ^= 0x10;
    EXPECT_THROW(decode_image(damaged), Error) << at;
  }
}

TEST(ImageCodec, MaskKeepsClassNumbers) {
  Image mask = noise_image(20, 10, 1);
  for (auto& value : mask.pixels) value %= 11;
  const Image decoded = decode_mask(encode_png(mask));
  EXPECT_EQ(decoded.channels, 1);
  EXPECT_EQ(decoded.pixels, mask.pixels);
  EXPECT_THROW(decode_mask(encode_png(noise_image(4, 4, 3))), Error);
  EXPECT_THROW(decode_mask(encode_jpeg(mask, 90)), Error);
}

TEST(ImageCodec, PnmWithCommentsAndSmallRange) {
  const Image colour = decode_image(bytes_of("P6 # made by hand\n2 # width\n1\n255\nabcdef"));
  EXPECT_EQ(colour.width, 2);
  EXPECT_EQ(colour.height, 1);
  EXPECT_EQ(colour.pixels, bytes_of("abcdef"));
  const auto grey = bytes_of(std::string_view("P5\n#a\n#b\n3 1 3\n\0\1\3", 18));
  EXPECT_EQ(probe_image(grey).channels, 1);
  EXPECT_EQ(to_string(probe_image(grey).format), "pnm");
  const std::vector<uint8_t> wanted = {0, 0, 0, 85, 85, 85, 255, 255, 255};
  EXPECT_EQ(decode_image(grey).pixels, wanted);
}

TEST(ImageCodec, MalformedPnmIsAnError) {
  for (const char* text :
       {"P5", "P52 1 255\nab", "P5\n2 1 255\na", "P5\n2 1 65535\nabcd", "P5\n0 1 255\n",
        "P5\n2 -1 255\nab", "P5\n2 1 255", "P5\n99999999 99999999 255\na", "P5\n2 1 50\nzz",
        "P5\n99999999999999999999 1 255\na", "P3\n1 1 255\n1 2 3", "", "P"}) {
    EXPECT_THROW(decode_image(bytes_of(text)), Error) << text;
  }
}

TEST(ImageCodec, DecodesIntoGivenRoom) {
  const Image image = noise_image(9, 5, 3);
  const auto bytes = encode_png(image);
  std::vector<uint8_t> out(image.pixels.size());
  decode_image_into(bytes, out);
  EXPECT_EQ(out, image.pixels);
  EXPECT_THROW(decode_image_into(bytes, std::span(out).first(out.size() - 1)), Error);
}

TEST(ImageCodec, RefusesToEncodeNonsense) {
  EXPECT_THROW(encode_jpeg(Image{2, 2, 3, {1, 2, 3}}, 90), Error);
  EXPECT_THROW(encode_jpeg(test_image(4, 4, 3), 0), Error);
  EXPECT_THROW(encode_png(Image{1, 1, 2, {1, 2}}), Error);
  EXPECT_THROW(encode_png(Image{}), Error);
}

TEST(ImageCodec, ThreadsAgree) {
  const auto bytes = encode_jpeg(noise_image(40, 40, 3), 80);
  const Image expected = decode_image(bytes);
  std::vector<Image> found(4);
  std::vector<std::thread> threads;
  for (auto& image : found) {
    threads.emplace_back([&image, &bytes] {
      for (int i = 0; i < 20; ++i) image = decode_image(bytes);
    });
  }
  for (auto& thread : threads) thread.join();
  for (const auto& image : found) EXPECT_EQ(image.pixels, expected.pixels);
}

}  // namespace
}  // namespace facetrain
