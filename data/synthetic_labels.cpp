#include "data/synthetic_labels.h"

#include <iterator>

namespace facetrain {
namespace {

constexpr std::string_view kAttributes[] = {
    "eyeglasses", "sunglasses",  "hat",         "face_mask", "beard",          "moustache",
    "smiling",    "mouth_open",  "eyes_closed", "fringe",    "long_hair",      "bald",
    "dark_hair",  "blond_hair",  "grey_hair",   "lipstick",  "bushy_eyebrows", "big_nose",
    "full_lips",  "narrow_eyes", "wide_face",   "occluded"};
constexpr std::string_view kExpressions[] = {"neutral", "happy",   "sad",  "surprise",
                                             "fear",    "disgust", "anger"};
constexpr std::string_view kAgeGroups[] = {"16-24", "25-34", "35-44", "45-54", "55-64", "65-80"};
constexpr std::string_view kMasks[] = {"background",  "skin",      "left_eyebrow", "right_eyebrow",
                                       "left_eye",    "right_eye", "nose",         "upper_lip",
                                       "inner_mouth", "lower_lip", "hair"};

}  // namespace

std::span<const std::string_view> synthetic_attribute_names() { return kAttributes; }
std::span<const std::string_view> synthetic_expression_names() { return kExpressions; }
std::span<const std::string_view> synthetic_age_group_names() { return kAgeGroups; }
std::span<const std::string_view> synthetic_mask_names() { return kMasks; }

namespace synthetic {
namespace {

constexpr float kDegrees = 180 / kPi;

// Points 0 ... 16: along the jaw, from the image's left ear over the chin to the right ear.
void jaw_points(const HeadShape& head, Vec3* out) {
  // Share of the way from the eyes' height to the chin, and the angle around the head.
  static constexpr float kDown[8] = {0.00f, 0.16f, 0.32f, 0.475f, 0.62f, 0.755f, 0.87f, 0.955f};
  static constexpr float kAngle[8] = {1.42f, 1.42f, 1.41f, 1.39f, 1.36f, 1.30f, 1.18f, 0.90f};
  for (int i = 0; i < 8; ++i) {
    const float y = mix(head.eye().y, head.chin(), kDown[i]);
    const float x = head.section(y).half_width * std::sin(kAngle[i]);
    out[i] = head.point(-x, y);
    out[16 - i] = head.point(x, y);
  }
  out[8] = head.point(0, head.chin() + 0.02f);
}

void brow_and_nose_points(const HeadShape& head, Vec3* out) {
  const BrowCurves& brow = head.brow();
  static constexpr float kAlong[5] = {0.95f, 0.5f, 0.0f, -0.5f, -0.95f};
  for (int i = 0; i < 5; ++i) {
    const float s = kAlong[i], x = brow.x + brow.half_length * s,
                y = brow.centre(s) + 0.4f * brow.half_thickness(s);
    out[17 + i] = head.point(-x, y);
    out[26 - i] = head.point(x, y);
  }
  const NoseCurves& nose = head.nose();
  for (int i = 0; i < 4; ++i)
    out[27 + i] = head.point(0, mix(nose.top - 0.02f, nose.tip, static_cast<float>(i) / 3));
  static constexpr float kBase[5] = {-0.95f, -0.5f, 0.0f, 0.5f, 0.95f};
  for (int i = 0; i < 5; ++i) {
    const float up = 0.022f * std::abs(kBase[i]) + 0.006f;
    out[31 + i] = head.point(kBase[i] * nose.width, nose.base + up);
  }
}

void eye_points(const HeadShape& head, Vec3* out) {
  const EyeCurves& eye = head.eye();
  const auto at = [&](float side, float s, float y) {
    return head.point(side * (eye.x + s * eye.half_width), y);
  };
  const float a = 0.36f;
  const Vec3 left[6] = {at(-1, 1, eye.upper(1)),   at(-1, a, eye.upper(a)),
                        at(-1, -a, eye.upper(-a)), at(-1, -1, eye.upper(-1)),
                        at(-1, -a, eye.lower(-a)), at(-1, a, eye.lower(a))};
  const Vec3 right[6] = {at(1, -1, eye.upper(-1)), at(1, -a, eye.upper(-a)),
                         at(1, a, eye.upper(a)),   at(1, 1, eye.upper(1)),
                         at(1, a, eye.lower(a)),   at(1, -a, eye.lower(-a))};
  std::copy_n(left, 6, out + 36);
  std::copy_n(right, 6, out + 42);
}

void mouth_points(const HeadShape& head, Vec3* out) {
  const MouthCurves& mouth = head.mouth();
  const auto at = [&](float t, float y) { return head.point(t * mouth.half_width, y); };
  static constexpr float kTop[7] = {-1, -0.62f, -0.25f, 0, 0.25f, 0.62f, 1};
  for (int i = 0; i < 7; ++i) out[48 + i] = at(kTop[i], mouth.outer_top(kTop[i]));
  static constexpr float kBottom[5] = {0.64f, 0.32f, 0, -0.32f, -0.64f};
  for (int i = 0; i < 5; ++i) out[55 + i] = at(kBottom[i], mouth.outer_bottom(kBottom[i]));
  static constexpr float kInner[5] = {-0.88f, -0.4f, 0, 0.4f, 0.88f};
  for (int i = 0; i < 5; ++i) out[60 + i] = at(kInner[i], mouth.inner_top(kInner[i]));
  for (int i = 0; i < 3; ++i) out[65 + i] = at(kInner[3 - i], mouth.inner_bottom(kInner[3 - i]));
}

// Whether the picture shows this point of the face's surface.
bool visible(const Rasterizer& rasterizer, const Nuisance& nuisance,
             const std::vector<float>& cover, Vec3 point) {
  const SampleBuffer& buffer = rasterizer.buffer();
  const Projected p = rasterizer.camera().project(point);
  const int x = static_cast<int>(std::floor(p.x + 0.5f)),
            y = static_cast<int>(std::floor(p.y + 0.5f));
  if (x < 0 || y < 0 || x >= buffer.size() || y >= buffer.size()) return false;
  const int pixel = y * buffer.size() + x;
  if (!cover.empty() && cover[pixel] > 0.5f) return false;
  if (nuisance.wear.glasses == Glasses::kDark && rasterizer.lens(pixel) > 1) return false;
  const int sx = std::clamp(static_cast<int>(std::lround(2 * p.x + 0.5f)), 0, buffer.samples() - 1);
  const int sy = std::clamp(static_cast<int>(std::lround(2 * p.y + 0.5f)), 0, buffer.samples() - 1);
  const int sample = sy * buffer.stride() + sx;
  const uint32_t triangle = buffer.triangle(sample);
  if (triangle == SampleBuffer::kNone) return true;  // just beside the outline
  const float in_front = buffer.nearness(sample) - p.z;
  // The face's own samples lie within a pixel of the point; what is worn lies closely above it.
  const bool own = rasterizer.drawn(triangle).mesh->material == Material::kFace;
  return in_front < (own ? 0.03f : 0.004f);
}

std::vector<uint8_t> attributes(const HeadShape& head, const Nuisance& nuisance) {
  const FaceIdentity& face = head.face();
  const Expression& e = nuisance.expression;
  const HairStyle& hair = nuisance.hair;
  const float light = hair.colour.x + hair.colour.y + hair.colour.z;
  const bool bald = hair.cut == HairCut::kBald, grey = hair.grey > 0.5f;
  const bool covered = nuisance.wear.hat != Hat::kNone;
  const bool values[] = {
      nuisance.wear.glasses != Glasses::kNone,
      nuisance.wear.glasses == Glasses::kDark,
      covered,
      nuisance.wear.mask,
      nuisance.beard > 0.3f,
      nuisance.moustache > 0.3f,
      e.smile > 0.3f,
      e.open > 0.12f,
      e.closed > 0.5f,
      !bald && hair.fringe && !covered,
      hair.cut == HairCut::kLong,
      bald,
      !bald && !grey && light < 0.13f,
      !bald && !grey && light > 0.50f && hair.colour.y > 0.55f * hair.colour.x,
      !bald && grey,
      nuisance.lipstick > 0,
      face.brow_thick > 0.035f,
      face.nose_width + 0.45f * face.nose_out > 0.27f,
      face.upper_lip + face.lower_lip > 0.165f,
      face.eye_height * face.eye_width<0.078f, face.face_width / face.face_length> 0.80f,
      nuisance.occluder != Occluder::kNone};
  static_assert(std::size(values) == std::size(kAttributes));
  return {std::begin(values), std::end(values)};
}

float quality(const Nuisance& nuisance, double hidden_share) {
  const Lighting& light = nuisance.light;
  const float yaw = nuisance.yaw / 1.0472f, pitch = nuisance.pitch / 0.35f;
  float q = 1 - 0.30f * yaw * yaw - 0.10f * pitch * pitch;
  q *= 1 - 0.25f * clamp01(nuisance.blur / 0.7f) - 0.10f * clamp01(nuisance.noise / 6);
  q *= mix(0.55f, 1, clamp01((nuisance.resolution - 0.4f) / 0.6f));
  q *= 1 - 0.6f * clamp01(static_cast<float>(hidden_share) * 2);
  q *= 1 - 0.25f * clamp01(std::abs(std::log(light.gain)) / 0.5f);
  q *= 1 - 0.15f * clamp01(std::abs(light.azimuth) * light.key / (1 + 2 * light.ambient));
  q *= mix(0.85f, 1, clamp01((nuisance.jpeg_quality - 55) / 40.0f));
  return clamp01(q);
}

}  // namespace

std::array<Vec3, 68> landmark_points(const HeadShape& head) {
  std::array<Vec3, 68> points;
  jaw_points(head, points.data());
  brow_and_nose_points(head, points.data());
  eye_points(head, points.data());
  mouth_points(head, points.data());
  return points;
}

std::array<Vec3, 5> five_points(const HeadShape& head) {
  const EyeCurves& eye = head.eye();
  const MouthCurves& mouth = head.mouth();
  return {head.point(-eye.x, eye.y), head.point(eye.x, eye.y), head.point(0, head.nose().tip),
          head.point(-mouth.half_width, mouth.middle(-1)),
          head.point(mouth.half_width, mouth.middle(1))};
}

void write_labels(const HeadShape& head, const Nuisance& nuisance, const Rasterizer& rasterizer,
                  const std::vector<float>& cover, SyntheticFace& face) {
  const Camera& camera = rasterizer.camera();
  const auto five = five_points(head);
  for (size_t i = 0; i < five.size(); ++i) {
    const Projected p = camera.project(five[i]);
    face.landmarks5[2 * i] = p.x, face.landmarks5[2 * i + 1] = p.y;
  }
  const auto points = landmark_points(head);
  int inner_hidden = 0;
  for (size_t i = 0; i < points.size(); ++i) {
    const Projected p = camera.project(points[i]);
    face.landmarks68[2 * i] = p.x, face.landmarks68[2 * i + 1] = p.y;
    face.visibility68[i] = visible(rasterizer, nuisance, cover, points[i]);
    // The far side of a turned head is counted as pose, not as hidden.
    const bool near_side = points[i].x * nuisance.yaw <= 0 || std::abs(nuisance.yaw) < 0.3f;
    if (i >= 17 && near_side) inner_hidden += face.visibility68[i] == 0;
  }
  face.pose = {nuisance.yaw * kDegrees, nuisance.pitch * kDegrees, nuisance.roll * kDegrees};
  const Vec3 gaze = camera.rotation()(direction(nuisance.gaze_yaw, nuisance.gaze_pitch));
  face.gaze = {std::atan2(gaze.x, gaze.z) * kDegrees,
               std::asin(std::clamp(gaze.y, -1.0f, 1.0f)) * kDegrees};
  face.attributes = attributes(head, nuisance);
  face.expression = static_cast<int64_t>(nuisance.emotion);
  face.age = nuisance.age;
  face.age_group = std::clamp<int64_t>((static_cast<int64_t>(nuisance.age) - 15) / 10, 0,
                                       std::size(kAgeGroups) - 1);
  face.quality = quality(nuisance, inner_hidden / 51.0);
  face.jpeg_quality = nuisance.jpeg_quality;
}

}  // namespace synthetic
}  // namespace facetrain
