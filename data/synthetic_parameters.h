// What a synthetic face is made of: the identity's parameters, and what one image adds to them.
//
// Lengths are in head units: about half the height of a head, 58.7 pixels of a 112-pixel image.
// The head's frame has x to the image's right, y up and z out of the face; all of it is symmetric
// in x, because training flips images.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "data/synthetic_math.h"

namespace facetrain::synthetic {

// Everything that an identity keeps over its images. Drawn uniformly from identity_parameters().
struct FaceIdentity {
  // Outline.
  float face_width, face_length, jaw_width, jaw_square, chin_width, chin_out;
  float cheekbone, cheek, forehead_slope, hairline, neck_width;
  // Eyes and brows.
  float eye_x, eye_y, eye_width, eye_height, eye_tilt, eye_deep, lid_crease, iris_tone;
  float brow_y, brow_thick, brow_length, brow_dark, brow_ridge, brow_tilt, brow_arch;
  // Nose.
  float nose_y, nose_width, nose_out, nose_up, nose_bridge, nose_hump;
  // Mouth.
  float mouth_y, mouth_width, upper_lip, lower_lip, lip_out, lip_dark, lip_bow, lip_curve;
  // Ears.
  float ear_size, ear_out;
  // Colour and hair growth.
  float skin_tone, skin_warmth, freckles, blush, beard_growth, age;
};

struct IdentityParameter {
  std::string_view name;
  float FaceIdentity::*member;
  float low, high;
};
std::span<const IdentityParameter> identity_parameters();

FaceIdentity draw_identity(uint64_t seed, int64_t identity);

enum class Emotion { kNeutral, kHappy, kSad, kSurprise, kFear, kDisgust, kAnger };

// How far parts of the face are moved; 0 is at rest, 1 a strong expression.
struct Expression {
  float smile = 0, frown = 0, open = 0, wide = 0, press = 0, upper_raise = 0;
  float brow_raise = 0, brow_inner = 0, brow_lower = 0;
  float lid_wide = 0, squint = 0, closed = 0, nose_wrinkle = 0;
};

enum class HairCut { kBald, kShort, kMedium, kLong };

struct HairStyle {
  HairCut cut = HairCut::kShort;
  bool fringe = false;
  float length = -0.2f;  // where side hair ends (y)
  float volume = 0.08f;  // thickness over the skull
  float sweep = 0.35f;   // how far strands lean sideways
  float wave = 0.15f;    // 0 straight, 1 curly
  float recede = 0;      // how far the hairline is up
  float grey = 0;        // share of grey strands
  Vec3 colour{0.09f, 0.05f, 0.03f};
  uint64_t key = 0;
};

enum class Hat { kNone, kCap, kBeanie, kBrim };
enum class Glasses { kNone, kClear, kDark };
enum class Occluder { kNone, kHand, kPhone, kBlur, kCup };

struct Wear {
  Hat hat = Hat::kNone;
  Glasses glasses = Glasses::kNone;
  bool mask = false;
  float lens_width = 0.2f, lens_height = 0.15f, lens_square = 0, frame = 0.016f;
  float hat_line = 0.52f;
  Vec3 hat_colour, frame_colour, mask_colour, clothes_colour{0.1f, 0.1f, 0.12f};
};

struct Lighting {
  float azimuth = 0, elevation = 0.35f;  // radians, of the key light
  float key = 0.85f, fill = 0.15f, ambient = 0.40f;
  Vec3 tint{1, 1, 1};
  float gain = 1, gamma = 1, saturation = 1;
};

// What one image adds: drawn from (seed, identity, image); the defaults are the plain identity.
struct Nuisance {
  float yaw = 0, pitch = 0, roll = 0;  // radians
  float shift_x = 0, shift_y = 0;      // pixels of a 112-pixel image
  float scale = 1, distance = 9;       // distance of the camera in head units
  float gaze_yaw = 0, gaze_pitch = 0;  // radians, in the head's frame
  Emotion emotion = Emotion::kNeutral;
  Expression expression;
  float age = 35;
  HairStyle hair;
  float beard = 0, moustache = 0;  // 0 shaved, 1 full
  float lipstick = 0;
  Wear wear;
  Lighting light;
  bool background = false;  // false: even grey
  Occluder occluder = Occluder::kNone;
  float blur = 0, noise = 0,
        resolution = 1;  // sigma in pixels of 112; sigma in levels; factor <= 1
  int jpeg_quality = 92;
  uint64_t key = 0;  // of the textures, the background and the occluder
};

Nuisance draw_nuisance(uint64_t seed, int64_t identity, int64_t image, const FaceIdentity& face);

// The identity at rest under even light: no draw of the image is left in it.
Nuisance plain_nuisance(const FaceIdentity& face);

}  // namespace facetrain::synthetic
