#include "data/synthetic_parameters.h"

#include <iterator>

#include "core/random.h"

namespace facetrain::synthetic {
namespace {

using F = FaceIdentity;

constexpr IdentityParameter kParameters[] = {
    {"face_width", &F::face_width, 0.585f, 0.775f},
    {"face_length", &F::face_length, 0.810f, 1.010f},
    {"jaw_width", &F::jaw_width, 0.700f, 1.000f},
    {"jaw_square", &F::jaw_square, 0.30f, 0.95f},
    {"chin_width", &F::chin_width, 0.120f, 0.320f},
    {"chin_out", &F::chin_out, -0.05f, 0.12f},
    {"cheekbone", &F::cheekbone, -0.03f, 0.07f},
    {"cheek", &F::cheek, -0.070f, 0.080f},
    {"forehead_slope", &F::forehead_slope, -0.05f, 0.09f},
    {"hairline", &F::hairline, 0.56f, 0.70f},
    {"neck_width", &F::neck_width, 0.36f, 0.52f},
    {"eye_x", &F::eye_x, 0.247f, 0.353f},
    {"eye_y", &F::eye_y, 0.060f, 0.180f},
    {"eye_width", &F::eye_width, 0.090f, 0.155f},
    {"eye_height", &F::eye_height, 0.55f, 0.90f},
    {"eye_tilt", &F::eye_tilt, -0.020f, 0.035f},
    {"eye_deep", &F::eye_deep, 0.010f, 0.140f},
    {"lid_crease", &F::lid_crease, 0.0f, 1.0f},
    {"iris_tone", &F::iris_tone, 0.0f, 1.0f},
    {"brow_y", &F::brow_y, 0.120f, 0.235f},
    {"brow_thick", &F::brow_thick, 0.012f, 0.050f},
    {"brow_length", &F::brow_length, 0.120f, 0.212f},
    {"brow_dark", &F::brow_dark, 0.35f, 1.0f},
    {"brow_ridge", &F::brow_ridge, 0.0f, 0.08f},
    {"brow_tilt", &F::brow_tilt, -0.025f, 0.035f},
    {"brow_arch", &F::brow_arch, 0.0f, 0.05f},
    {"nose_y", &F::nose_y, -0.315f, -0.130f},
    {"nose_width", &F::nose_width, 0.080f, 0.190f},
    {"nose_out", &F::nose_out, 0.130f, 0.340f},
    {"nose_up", &F::nose_up, -0.04f, 0.05f},
    {"nose_bridge", &F::nose_bridge, 0.055f, 0.095f},
    {"nose_hump", &F::nose_hump, -0.03f, 0.05f},
    {"mouth_y", &F::mouth_y, -0.645f, -0.500f},
    {"mouth_width", &F::mouth_width, 0.172f, 0.322f},
    {"upper_lip", &F::upper_lip, 0.035f, 0.095f},
    {"lower_lip", &F::lower_lip, 0.050f, 0.120f},
    {"lip_out", &F::lip_out, 0.0f, 0.06f},
    {"lip_dark", &F::lip_dark, 0.55f, 0.95f},
    {"lip_bow", &F::lip_bow, 0.0f, 1.0f},
    {"lip_curve", &F::lip_curve, -0.020f, 0.020f},
    {"ear_size", &F::ear_size, 0.17f, 0.27f},
    {"ear_out", &F::ear_out, 0.05f, 0.22f},
    {"skin_tone", &F::skin_tone, 0.030f, 0.720f},
    {"skin_warmth", &F::skin_warmth, -0.5f, 0.5f},
    {"freckles", &F::freckles, -0.6f, 0.8f},
    {"blush", &F::blush, 0.0f, 1.0f},
    {"beard_growth", &F::beard_growth, 0.0f, 1.0f},
    {"age", &F::age, 18.0f, 72.0f},
};

// Draws one image's nuisance; every group has a stream of its own, so that a change to one group
// leaves the others as they were.
class NuisanceDraw {
 public:
  NuisanceDraw(uint64_t key, const FaceIdentity& face) : key_(key), face_(face) {}

  Nuisance draw() {
    nuisance_.key = key_;
    draw_view();
    draw_expression();
    draw_age_and_beard();
    draw_hair();
    draw_wear();
    draw_light();
    draw_capture();
    return nuisance_;
  }

 private:
  Random stream(std::string_view group) const { return Random(random_key(key_, name_key(group))); }
  static float in(Random& random, double low, double high) {
    return static_cast<float>(random.uniform(low, high));
  }

  void draw_view() {
    Random r = stream("view");
    constexpr float kDegree = kPi / 180;
    // Denser towards the front, as pictures of people are.
    nuisance_.yaw = (r.chance(0.16) ? in(r, -60, 60) : in(r, -22, 22) + in(r, -18, 18)) * kDegree;
    nuisance_.pitch = (in(r, -6, 6) + in(r, -5, 5)) * kDegree;
    nuisance_.roll = (in(r, -4, 4) + in(r, -3, 3)) * kDegree;
    nuisance_.shift_x = in(r, -1.5, 1.5);
    nuisance_.shift_y = in(r, -1.5, 1.5);
    nuisance_.scale = in(r, 0.975, 1.025);
    nuisance_.distance = in(r, 6, 12);
    nuisance_.gaze_yaw = in(r, -24, 24) * kDegree;
    nuisance_.gaze_pitch = in(r, -14, 12) * kDegree;
  }

  void draw_expression() {
    Random r = stream("expression");
    const double kind = r.uniform();
    const float strength = in(r, 0.35, 0.8), part = in(r, 0, 1);
    auto& e = nuisance_.expression;
    if (r.chance(0.05)) e.closed = 1;
    if (kind < 0.42) {
      if (part > 0.8f) e.open = in(r, 0.05, 0.4);
      e.smile = in(r, -0.02, 0.12);
    } else if (kind < 0.65) {
      nuisance_.emotion = Emotion::kHappy;
      e.smile = strength, e.squint = 0.35f * strength;
      e.open = part > 0.45f ? 0.5f * strength * part : 0;
    } else {
      nuisance_.emotion = static_cast<Emotion>(2 + std::min<int64_t>(4, r.below(5)));
      apply_negative(nuisance_.emotion, strength, part, e);
    }
  }

  static void apply_negative(Emotion emotion, float strength, float part, Expression& e) {
    if (emotion == Emotion::kSad) {
      e.frown = strength, e.brow_inner = 0.9f * strength, e.squint = 0.3f * strength;
    } else if (emotion == Emotion::kSurprise) {
      e.open = strength, e.brow_raise = strength, e.lid_wide = 0.9f * strength;
    } else if (emotion == Emotion::kFear) {
      e.wide = 0.9f * strength, e.open = 0.45f * strength * (0.5f + part);
      e.brow_raise = 0.5f * strength, e.brow_inner = 0.8f * strength, e.lid_wide = strength;
    } else if (emotion == Emotion::kDisgust) {
      e.nose_wrinkle = strength, e.upper_raise = strength, e.squint = 0.6f * strength;
      e.frown = 0.4f * strength, e.brow_lower = 0.5f * strength;
    } else {
      e.brow_lower = strength, e.press = part > 0.5f ? strength : 0.3f;
      e.frown = 0.35f * strength, e.squint = 0.3f * strength;
      e.open = part > 0.5f ? 0 : 0.25f * strength;
    }
  }

  void draw_age_and_beard() {
    Random r = stream("age");
    nuisance_.age = std::clamp(face_.age + in(r, -11, 11), 16.0f, 80.0f);
    // The growth inclines, the day decides.
    const float growth = face_.beard_growth + in(r, -0.25, 0.25);
    nuisance_.beard = smooth(0.70f, 1.0f, growth);
    nuisance_.moustache = std::max(nuisance_.beard, r.chance(0.04) ? 0.9f : 0.0f);
    if (nuisance_.beard > 0 && r.chance(0.2)) nuisance_.moustache = 0.15f;
    if (nuisance_.beard < 0.2f && r.chance(0.12)) nuisance_.lipstick = in(r, 0.5, 1);
  }

  void draw_hair() {
    Random r = stream("hair");
    HairStyle& hair = nuisance_.hair;
    hair.key = r.next();
    const double cut = r.uniform();
    hair.cut = cut < 0.06   ? HairCut::kBald
               : cut < 0.48 ? HairCut::kShort
               : cut < 0.72 ? HairCut::kMedium
                            : HairCut::kLong;
    hair.length = hair.cut == HairCut::kLong     ? in(r, -1.6, -1.0)
                  : hair.cut == HairCut::kMedium ? in(r, -0.75, -0.35)
                                                 : in(r, -0.16, 0.02);
    hair.fringe = r.chance(0.22);
    hair.volume = in(r, 0.05, hair.cut == HairCut::kShort ? 0.11 : 0.15);
    hair.sweep = in(r, -0.6, 0.6);
    hair.wave = square(in(r, 0, 1));
    const float old = smooth(35, 75, nuisance_.age);
    hair.recede = r.chance(0.2 + 0.4 * old) ? in(r, 0.0, 0.14) : 0.0f;
    hair.grey = clamp01(1.6f * old * in(r, 0.2, 1.1) - 0.15f);
    if (r.chance(0.04)) hair.grey = in(r, 0.6, 1.0);
    static constexpr Vec3 kColours[] = {{0.018f, 0.015f, 0.014f}, {0.045f, 0.027f, 0.018f},
                                        {0.090f, 0.050f, 0.028f}, {0.170f, 0.100f, 0.055f},
                                        {0.300f, 0.190f, 0.100f}, {0.480f, 0.340f, 0.180f},
                                        {0.220f, 0.075f, 0.030f}};
    const auto last = static_cast<int64_t>(std::size(kColours)) - 1;
    const Vec3 a = kColours[r.below(last + 1)], b = kColours[r.below(last + 1)];
    hair.colour = mix(a, b, in(r, 0, 0.3)) * in(r, 0.85, 1.15);
  }

  static Vec3 muted(Random& r, double low, double high) {
    const float grey = in(r, low, high), chroma = in(r, 0.1, 0.75);
    const float hue = in(r, 0, 6.2832);
    const auto channel = [&](float phase) {
      return std::max(0.012f, grey * (1 + chroma * std::cos(hue - phase)));
    };
    return {channel(0), channel(2.0944f), channel(4.1888f)};
  }

  void draw_wear() {
    Random r = stream("wear");
    Wear& wear = nuisance_.wear;
    wear.clothes_colour = muted(r, 0.03, 0.45);
    const double glasses = r.uniform();
    wear.glasses = glasses < 0.05   ? Glasses::kDark
                   : glasses < 0.17 ? Glasses::kClear
                                    : Glasses::kNone;
    wear.lens_width = in(r, 0.175, 0.225), wear.lens_height = in(r, 0.115, 0.175);
    wear.lens_square = in(r, 0, 1), wear.frame = in(r, 0.009, 0.022);
    wear.frame_colour = r.chance(0.5) ? Vec3{0.015f, 0.014f, 0.014f} : muted(r, 0.05, 0.3);
    if (r.chance(0.07)) wear.hat = static_cast<Hat>(1 + r.below(3));
    wear.hat_line = in(r, 0.46, 0.58);
    wear.hat_colour = mix(muted(r, 0.03, 0.4), muted(r, 0.03, 0.4), 0.4f);
    wear.mask = r.chance(0.05);
    static constexpr Vec3 kMasks[] = {{0.30f, 0.52f, 0.66f},
                                      {0.75f, 0.77f, 0.78f},
                                      {0.03f, 0.03f, 0.035f},
                                      {0.42f, 0.60f, 0.55f}};
    wear.mask_colour = kMasks[r.below(4)];
    if (r.chance(0.06)) nuisance_.occluder = static_cast<Occluder>(1 + r.below(4));
  }

  void draw_light() {
    Random r = stream("light");
    Lighting& light = nuisance_.light;
    light.azimuth = in(r, -0.9, 0.9), light.elevation = in(r, 0.0, 0.75);
    light.key = in(r, 0.45, 0.85), light.fill = in(r, 0.05, 0.25), light.ambient = in(r, 0.34, 0.5);
    const float warm = in(r, -1, 1), green = in(r, -0.04, 0.04);
    light.tint = {1 + 0.11f * warm, 1 + green, 1 - 0.15f * warm};
    light.gain = std::exp(in(r, -0.24, 0.20));
    light.gamma = std::exp(in(r, -0.14, 0.14));
    light.saturation = in(r, 0.75, 1.2);
    if (r.chance(0.03)) light.saturation = 0;
  }

  void draw_capture() {
    Random r = stream("capture");
    nuisance_.background = true;
    nuisance_.blur = in(r, 0, 0.65);
    nuisance_.noise = in(r, 0, 5);
    if (r.chance(0.12)) nuisance_.resolution = in(r, 0.45, 0.9);
    nuisance_.jpeg_quality = static_cast<int>(r.below(39)) + 60;
  }

  uint64_t key_;
  const FaceIdentity& face_;
  Nuisance nuisance_;
};

}  // namespace

std::span<const IdentityParameter> identity_parameters() { return kParameters; }

FaceIdentity draw_identity(uint64_t seed, int64_t identity) {
  FaceIdentity face{};
  for (const auto& parameter : kParameters) {
    const double u = to_unit(
        random_key(seed, name_key("synthetic identity"), identity, name_key(parameter.name)));
    face.*parameter.member = mix(parameter.low, parameter.high, static_cast<float>(u));
  }
  return face;
}

Nuisance draw_nuisance(uint64_t seed, int64_t identity, int64_t image, const FaceIdentity& face) {
  return NuisanceDraw(random_key(seed, name_key("synthetic image"), identity, image), face).draw();
}

Nuisance plain_nuisance(const FaceIdentity& face) {
  Nuisance nuisance;
  nuisance.age = face.age;
  nuisance.beard = nuisance.moustache = smooth(0.62f, 0.95f, face.beard_growth);
  nuisance.light.azimuth = 0.3f;
  return nuisance;
}

}  // namespace facetrain::synthetic
