// Rendered faces with exact labels: the data set that every machine has.
//
// A face is a function of (seed, identity, image): a low-polygon head whose shape and colour belong
// to the identity (48 parameters, data/synthetic_parameters.h), seen under nuisance that belongs to
// the image: pose, framing, expression, gaze, age within some years, light, hair, beard, make-up,
// glasses, hat, mask, occluder, clothes, background, resolution, blur, noise and JPEG quality.
// Hair, clothes, accessories and background say nothing about the identity; skin does so weakly.
// The functions keep no state and may be called from any thread; the same key gives the same bytes.
//
// Because the renderer knows the geometry, every label is exact. Conventions:
//
// - Pixels: x to the right, y down, the origin at the centre of the top-left pixel. At pose 0 the
//   five points lie around the template that recognition networks are aligned to: at size 112
//   (38.3, 51.7) (73.5, 51.5) (56.0, 71.7) (41.5, 92.4) (70.7, 92.2); a face keeps its own
//   proportions about it and is not warped onto it.
// - "Left" in a name means the image's left, for landmarks, mask classes and their flipped pairs.
// - Landmarks are projections of points that are fixed on the head, also where it hides them: the
//   jaw's points 0 ... 16 stay on the jaw when the head turns and do not follow its outline.
// - A landmark is visible unless it lies outside of the image or is hidden by the head itself,
// hair,
//   a hat, a frame or dark lens, a mask or (more than half) an occluder. Clear lenses hide nothing.
// - Pose: yaw is positive when the face turns towards the image's right, pitch when it turns up,
//   roll when the top of the head leans towards the image's right; degrees. Roll is applied first,
//   about the head's own axis, then pitch, then yaw, so that the face looks along
//   (sin yaw cos pitch, sin pitch, cos yaw cos pitch), x right, y up, z towards the camera.
// - Gaze: yaw and pitch of the same kind of direction for both eyes, in the camera's frame (the
// pose
//   of the head is included); given also where the eyes are closed or hidden.
// - Mask: the class of what is drawn in most of the pixel. Skin is the face from chin to hairline
//   (and a bald skull, stubble, beard and moustache); ears, neck, clothes, hats, masks, frames,
//   dark lenses and occluders are background; behind clear lenses skin and eyes keep their class.
//   An eye is its opening between the lids; a closed eye has no pixels. Blur and noise leave masks
//   alone.
// - Attributes are those of the image, hidden or not (a beard under a mask counts), but a fringe
//   under a hat does not. "eyeglasses" includes sunglasses; "occluded" is a hand, a telephone, a
//   cup or something out of focus in the foreground; "smiling" and "mouth_open" follow the
//   expression's strength; "bushy_eyebrows" ... "wide_face" are thresholds on the identity's shape.
// - Age is the identity's, give or take 11 years, between 16 and 80; it shows in lines, folds,
// spots,
//   lids, lips and, more often than not, in grey hair. Groups: 16-24, then decades, then 65-80.
// - Quality is a product of penalties for yaw, pitch, blur, noise, resolution, hidden landmarks,
//   exposure, side light and JPEG quality, in [0, 1].
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
  int size = 112;        // pixels, square; 16 ... 2048
  bool nuisance = true;  // false: the plain identity, frontal, even light, grey background
};

// Names and order of the columns `attributes`, `expression`, `age_group` and of the mask's classes
// (LaPa's 11).
std::span<const std::string_view> synthetic_attribute_names();   // >= 12
std::span<const std::string_view> synthetic_expression_names();  // neutral first
std::span<const std::string_view> synthetic_age_group_names();
std::span<const std::string_view> synthetic_mask_names();  // background, skin, left brow, ... hair

struct SyntheticFace {
  Image image;                          // [size, size, 3] before JPEG
  int jpeg_quality = 92;                // the quality that this image is to be stored at
  Image mask;                           // [size, size, 1], class numbers 0 ... 10
  std::array<float, 5 * 2> landmarks5;  // pixels (x, y): eyes, nose tip, mouth corners; left first
  std::array<float, 68 * 2> landmarks68;  // iBUG 300-W order
  std::array<uint8_t, 68> visibility68;   // 1 = seen, 0 = hidden
  std::array<float, 3> pose;              // yaw, pitch, roll; degrees
  std::array<float, 2> gaze;              // yaw, pitch in the camera's frame; degrees
  std::vector<uint8_t> attributes;        // 0 or 1, one a name
  int64_t expression = 0;
  float age = 0;  // years
  int64_t age_group = 0;
  float quality = 0;
};

// Throws an Error on a size out of range or a negative identity or image.
SyntheticFace render_synthetic_face(const SyntheticOptions& options, int64_t identity,
                                    int64_t image);

// One identity a row, [rows * size, columns * size, 3]: frontal and turned by 30 degrees without
// nuisance, then its images 0, 1, ...
Image synthetic_contact_sheet(const SyntheticOptions& options, int rows, int columns);

}  // namespace facetrain
