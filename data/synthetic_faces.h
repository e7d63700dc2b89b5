// Rendered faces with exact labels: the data set that every machine has.
//
// A face is a function of (seed, identity, image): a low-polygon head whose shape and colour belong
// to the identity, seen under nuisance that belongs to the image. Because the renderer knows the
// geometry, every label is exact. No state, any thread.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "data/image_codec.h"

namespace facetrain {

struct SyntheticOptions {
  uint64_t seed = 1;
  int size = 112;  // pixels, square
  bool nuisance =
      true;  // false: the plain identity, frontal, even light, grey background (for contact sheets)
};

// Names and order of the columns `attributes`, `expression`, `age_group` and of the mask's classes
// (LaPa's 11).
std::span<const std::string_view> synthetic_attribute_names();  // >= 12
std::span<const std::string_view> synthetic_expression_names();
std::span<const std::string_view> synthetic_age_group_names();
std::span<const std::string_view> synthetic_mask_names();  // background, skin, left brow, ... hair

struct SyntheticFace {
  Image image;                            // [size, size, 3] before JPEG
  int jpeg_quality = 92;                  // the quality that this image is to be stored at
  Image mask;                             // [size, size, 1], class numbers 0 ... 10
  std::array<float, 5 * 2> landmarks5;    // pixels (x, y), origin at the centre of the top-left
                                          // pixel; left eye of the picture first
  std::array<float, 68 * 2> landmarks68;  // iBUG 300-W order
  std::array<uint8_t, 68>
      visibility68;  // 1 = seen, 0 = hidden by the head, an accessory or an occluder
  std::array<float, 3>
      pose;  // yaw (positive: towards the image's right), pitch (positive: up), roll; degrees
  std::array<float, 2> gaze;        // yaw, pitch in degrees, same signs, in the camera's frame
  std::vector<uint8_t> attributes;  // 0 or 1, one a name
  int64_t expression = 0;
  float age = 0;  // years
  int64_t age_group = 0;
  float quality =
      0;  // [0, 1]: falls with blur, noise, low resolution, occlusion, extreme pose and light
};

SyntheticFace render_synthetic_face(const SyntheticOptions& options, int64_t identity,
                                    int64_t image);

// One identity a row, [rows * size, columns * size, 3]: frontal and turned by 30 degrees without
// nuisance, then its images 0, 1, ...
Image synthetic_contact_sheet(const SyntheticOptions& options, int rows, int columns);

}  // namespace facetrain
