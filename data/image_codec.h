// Encoded image bytes to pixels and back: JPEG (libjpeg-turbo), PNG (libpng), binary PGM and PPM.
//
// Decoders throw an Error on anything that is not a whole image (truncated, wrong marker, trailing
// damage reported by the library as a warning included); they never return partly decoded pixels.
// Every function may be called from any thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace facetrain {

enum class ImageFormat { kJpeg, kPng, kPnm };

struct ImageInfo {
  ImageFormat format;
  int width, height;
  int channels;  // 1 or 3, as stored
};

// Interleaved 8-bit pixels, `channels` = 3 (R, G, B) or 1; row 0 is the top row.
struct Image {
  int width = 0, height = 0, channels = 3;
  std::vector<uint8_t> pixels;
};

// Format and size from the header alone.
ImageInfo probe_image(std::span<const uint8_t> bytes);

// Pixels as RGB, whatever was stored (grey is repeated, alpha is dropped, 16-bit PNG is reduced to
// 8).
Image decode_image(std::span<const uint8_t> bytes);

// RGB pixels into `out` [height, width, 3], which must have the size that probe_image gave.
void decode_image_into(std::span<const uint8_t> bytes, std::span<uint8_t> out);
// The same for who has called probe_image on these bytes already: `info` is its answer.
void decode_image_into(std::span<const uint8_t> bytes, const ImageInfo& info,
                       std::span<uint8_t> out);

// Pixels of a single-channel PNG, unscaled: region masks are class numbers, not grey values.
Image decode_mask(std::span<const uint8_t> bytes);

enum class Chroma { k420, k444 };
std::vector<uint8_t> encode_jpeg(const Image& image, int quality, Chroma chroma = Chroma::k420);
std::vector<uint8_t> encode_png(const Image& image);

// "jpeg", "png", "pnm".
std::string to_string(ImageFormat format);

}  // namespace facetrain
