// The face itself: complexion, lines of age, brows, lips, beard and eyes, painted where the
// curves of HeadShape say, a pixel's width soft.
#include "data/synthetic_shade.h"

namespace facetrain::synthetic {

struct Shader::Feature {
  Vec3 albedo;
  float gloss = 0.075f;
  uint8_t region = kSkin;
};

void Shader::shade_face(const Vertex& vertex, Shaded& shaded) const {
  Feature feature{skin_};
  add_complexion(vertex, feature);
  const float x = vertex.position.x, y = vertex.position.y;
  const bool front = std::abs(vertex.u) < 1.5f;
  if (front) {
    add_lines(vertex, feature);
    if (y < head_.nose().top && y > head_.nose().base - 0.05f) add_nose(vertex, feature);
    const MouthCurves& mouth = head_.mouth();
    if (y < 0.05f) add_beard(vertex, feature);
    if (std::abs(y - mouth.y) < 0.34f && std::abs(x) < mouth.half_width) add_mouth(vertex, feature);
    if (std::abs(y - head_.brow().y) < 0.16f) add_brow(vertex, feature);
  } else if (y < 0.05f) {
    add_beard(vertex, feature);
  }
  if (!hair_.none() && (y > 0.25f || std::abs(vertex.u) > 0.9f)) add_scalp(vertex, feature);
  Vec3 shining = vertex.shine;
  if (feature.gloss > 0.2f) {  // wet: the highlight is narrower than vertices can carry
    const Surface wet{{}, unit(vertex.normal), 1, true};
    shining = shine(wet, unit(camera_.towards(vertex.position)), vertex.lit);
  }
  shaded.colour = feature.albedo * vertex.light + shining * feature.gloss;
  shaded.region = feature.region;
  if (front && std::abs(y - head_.eye().y) < 0.22f) add_eye(vertex, shaded);
}

// What changes slowly over the skin is left in its light.
void Shader::light_skin(Vertex& vertex, Vec3 view) const {
  const FaceIdentity& face = head_.face();
  const MouthCurves& mouth = head_.mouth();
  const float y = vertex.position.y, ax = std::abs(vertex.position.x), t = ax / mouth.half_width;
  float occlusion = clamp01(1 - 1.5f * std::max(vertex.w - 0.01f, 0.0f));
  // Light falls into an open mouth; without this the teeth would be as dark as a fold.
  if (t < 1 && y < mouth.inner_top(t) && y > mouth.inner_bottom(t)) occlusion = 0.85f;
  const Surface skin{{}, vertex.normal, 1, false, occlusion, 1};
  // Blood shows in cheeks, nose and chin.
  const float wide = noise(4.725f * vertex.u + 3, 6.3f * y) - 0.5f;
  const float cheeks = bump((ax - 0.42f) / 0.30f, (y + 0.22f) / 0.26f);
  const float nose = bump(ax / 0.17f, (y - head_.nose().tip) / 0.14f);
  const float chin = bump(ax / 0.25f, (y - head_.chin() - 0.1f) / 0.16f);
  const float red =
      (0.15f + 0.30f * face.blush) * (cheeks + 0.8f * nose + 0.4f * chin) + 0.08f * wide;
  const Vec3 tint = Vec3{1 + 0.12f * red, 1 - 0.42f * red, 1 - 0.38f * red} * (1 + 0.11f * wide);
  vertex.light = diffuse(skin, vertex.lit) * tint;
  vertex.shine = shine(skin, view, vertex.lit) * (1 + 0.6f * wide);
  vertex.w = std::max(face.freckles, 0.0f) * (cheeks + 0.7f * nose);
}

void Shader::add_complexion(const Vertex& vertex, Feature& feature) const {
  const float x = 0.75f * vertex.u, y = vertex.position.y, freckled = vertex.w;
  const float pores = noise(34 * x, 34 * y);
  feature.albedo = feature.albedo * (1 + (0.08f + 0.06f * aged_) * (pores - 0.5f));
  feature.gloss *= 0.55f + 0.81f * pores;
  if (freckled > 0) {
    const float spot = freckled * smooth(0.66f, 0.82f, noise(27 * x + 11, 27 * y));
    feature.albedo = feature.albedo * (1 - 0.38f * spot);
  }
  if (aged_ > 0.2f) {  // age spots
    const float spot = smooth(0.74f, 0.86f, noise(9 * x + 40, 9 * y)) * aged_;
    feature.albedo = feature.albedo * Vec3{1 - 0.16f * spot, 1 - 0.22f * spot, 1 - 0.25f * spot};
  }
}

void Shader::add_lines(const Vertex& vertex, Feature& feature) const {
  const Vec3 p = vertex.position;
  const float ax = std::abs(p.x), y = p.y;
  const Expression& e = head_.expression();
  const EyeCurves& eye = head_.eye();
  const BrowCurves& brow = head_.brow();
  float line = 0;
  const float above = y - brow.y;
  if (above > 0.06f && above < 0.40f && ax < 0.5f) {
    const float strength = 0.8f * aged_ + 0.5f * std::max(e.brow_raise, 0.6f * e.brow_inner);
    const float wave = (above + 0.020f * noise(4 * p.x, 3.0f) + 0.02f * ax) / 0.085f;
    const float fold = std::abs(wave - std::floor(wave) - 0.5f);
    line += strength * bump(fold / 0.16f, 0) * bump(ax / 0.52f, (above - 0.22f) / 0.19f) *
            (0.5f + noise(9 * p.x, 7 * y));
  }
  if (above > -0.10f && above < 0.12f && ax < 0.10f) {  // between the brows
    const float strength = 0.45f * aged_ + 0.9f * e.brow_lower;
    line += strength * bump((ax - 0.035f) / 0.016f, (above - 0.01f) / 0.10f);
  }
  const float out = ax - eye.x - eye.half_width;
  if (out > 0 && out < 0.16f && std::abs(y - eye.y) < 0.11f) {  // at the eye's outer corner
    const float angle = (y - eye.y - 0.01f) / (out + 0.05f), fan = angle * 2.2f + 0.5f;
    const float strength = 0.6f * aged_ + 0.6f * e.squint;
    line += strength * bump((fan - std::floor(fan) - 0.5f) / 0.22f, (out - 0.06f) / 0.08f) *
            (1 - std::abs(angle));
  }
  const float s = (ax - eye.x) / eye.half_width;
  if (std::abs(s) < 1.3f && y < eye.y) {  // bag under the eye
    const float bag = y - (eye.lower(0) - 0.075f + 0.05f * s * s);
    line += (0.12f + 0.5f * aged_) * bump(bag / 0.02f, s / 1.3f);
    const float dark = bump(s / 1.3f, (y - eye.y + 0.10f) / 0.08f) * (0.08f + 0.16f * aged_);
    feature.albedo = feature.albedo * Vec3{1 - dark, 1 - 1.2f * dark, 1 - dark};
  }
  const float along = (head_.nose().tip - y) / (head_.nose().tip - head_.mouth().y);
  if (along > -0.2f && along < 1.5f) {  // from nose to mouth
    const float middle =
        mix(head_.face().nose_width + 0.05f, head_.mouth().half_width + 0.06f, along);
    const float strength = 0.12f + 0.55f * aged_ + 0.4f * std::max(e.smile, e.nose_wrinkle);
    line += strength * bump((ax - middle) / 0.022f, (along - 0.55f) / 0.70f);
  }
  line = std::min(line, 1.0f);
  feature.albedo = feature.albedo * Vec3{1 - 0.30f * line, 1 - 0.38f * line, 1 - 0.40f * line};
}

void Shader::add_nose(const Vertex& vertex, Feature& feature) const {
  const NoseCurves& nose = head_.nose();
  const float ax = std::abs(vertex.position.x), y = vertex.position.y;
  const bool ridge = y > nose.base && ax < 0.86f * nose.half_width(y);
  const bool wing = square((ax - 0.72f * nose.width) / (0.42f * nose.width)) +
                        square((y - nose.tip + 0.025f) / 0.07f) <
                    1;
  if (ridge || wing) feature.region = kNose;
  const float hole = bump((ax - 0.50f * nose.width) / (0.36f * nose.width),
                          (y - mix(nose.base, nose.tip, 0.30f)) / 0.030f);
  feature.albedo = feature.albedo * (1 - 0.93f * std::min(1.0f, 2 * hole));
  const float under = bump(ax / (1.2f * nose.width), (y - nose.base) / 0.05f);
  feature.albedo = feature.albedo * (1 - 0.25f * under);
  if (y > nose.tip - 0.03f && ax < 0.05f) feature.gloss *= 1.7f;
}

void Shader::add_mouth(const Vertex& vertex, Feature& feature) const {
  const MouthCurves& mouth = head_.mouth();
  const float x = vertex.position.x, y = vertex.position.y, t = x / mouth.half_width;
  const float top = mouth.outer_top(t), bottom = mouth.outer_bottom(t);
  const float inside = smooth(-0.5f * pixel_, 0.6f * pixel_, std::min(top - y, y - bottom));
  if (inside <= 0) return;
  const float inner_top = mouth.inner_top(t), inner_bottom = mouth.inner_bottom(t);
  const float dark = head_.face().lip_dark;
  const float crease = 1 + 0.16f * (noise(52 * x, 6 * y) - 0.5f);
  Vec3 lip = skin_ *
             Vec3{mix(1.02f, 0.86f, dark), mix(0.80f, 0.36f, dark), mix(0.82f, 0.40f, dark)} *
             crease;
  lip = mix(lip, Vec3{0.42f, 0.025f, 0.045f}, 0.75f * nuisance_.lipstick);
  if (y > inner_top) lip = lip * 0.86f;  // the upper lip faces down
  feature.albedo = mix(feature.albedo, lip, inside);
  feature.gloss = mix(feature.gloss, 0.13f + 0.14f * nuisance_.lipstick, inside);
  const float seam = y - 0.5f * (inner_top + inner_bottom);
  const float shut = 1 - smooth(0.004f, 0.02f, inner_top - inner_bottom);
  feature.albedo = feature.albedo * (1 - 0.75f * shut * bump(seam / (0.010f + 0.6f * pixel_), 0));
  if (inside > 0.5f) feature.region = seam > 0 ? kUpperLip : kLowerLip;
  if (y < inner_top && y > inner_bottom) add_inner_mouth(x, y, t, feature);
}

void Shader::add_inner_mouth(float x, float y, float t, Feature& feature) const {
  const MouthCurves& mouth = head_.mouth();
  const float from_top = mouth.inner_top(t) - y, from_bottom = y - mouth.inner_bottom(t);
  const float inside = smooth(0, 0.8f * pixel_, std::min(from_top, from_bottom));
  const float teeth = smooth(0.065f, 0.045f, from_top) * smooth(0.9f, 0.5f, std::abs(t));
  const float lower = smooth(0.030f, 0.015f, from_bottom) * smooth(0.6f, 0.3f, std::abs(t)) * 0.6f;
  const float gap = std::abs(x * 17 - std::floor(x * 17) - 0.5f);
  const Vec3 white = Vec3{0.56f, 0.51f, 0.44f} * ((0.8f + 0.2f * smooth(0.5f, 0.42f, gap)) *
                                                  (0.45f + 0.55f * smooth(0.0f, 0.03f, from_top)));
  const Vec3 tongue = mix(Vec3{0.05f, 0.012f, 0.012f}, Vec3{0.28f, 0.09f, 0.08f},
                          bump(t / 0.7f, (from_bottom - 0.02f) / 0.06f));
  const float shown = mix(0.35f, 1.0f, smooth(0.03f, 0.10f, mouth.gap_up + mouth.gap_down));
  feature.albedo = mix(feature.albedo, mix(tongue, white, shown * std::max(teeth, lower)), inside);
  feature.gloss *= 1 - 0.6f * inside;
  if (inside > 0.5f) feature.region = kInnerMouth;
}

void Shader::add_beard(const Vertex& vertex, Feature& feature) const {
  const float shadow = 0.30f * smooth(0.45f, 0.9f, head_.face().beard_growth);
  if (nuisance_.beard <= 0 && nuisance_.moustache <= 0 && shadow <= 0) return;
  const MouthCurves& mouth = head_.mouth();
  const NoseCurves& nose = head_.nose();
  const float ax = std::abs(vertex.position.x), y = vertex.position.y, across = 0.75f * vertex.u;
  const float side = smooth(0.22f, 0.66f, ax);
  const float line =
      mix(mouth.y - 0.02f, -0.02f, side * side) + 0.05f * (noise(12 * across, 3) - 0.5f);
  const bool near_lip = ax < 1.35f * mouth.half_width && y < nose.base + 0.03f;
  if (y > line + 0.05f && !near_lip) return;
  float jaw = smooth(line + 0.05f, line - 0.09f, y);
  const float t = ax / mouth.half_width;
  if (t < 1.1f) jaw *= smooth(0.012f, -0.03f, y - mouth.outer_bottom(std::min(t, 1.0f)));
  float lip = 0;
  if (t < 1.35f && y < nose.base + 0.03f) {
    // Thickest beside the groove under the nose, thinner and lower towards the corners.
    const float top = mouth.outer_top(std::min(t, 1.0f)),
                upper = std::min(nose.base - 0.004f, top + 0.11f);
    const float high = mix(upper, mouth.y + 0.01f, square(t / 1.3f)) - 0.012f * bump(ax / 0.03f, 0);
    lip = smooth(-0.012f, 0.020f, y - top) * smooth(1.32f, 0.95f, t) *
          smooth(0.018f, -0.028f, y - high);
    lip *= 0.75f + 0.25f * smooth(0.0f, 0.05f, ax);
  }
  const float strand = 0.5f * noise(64 * across, 22 * y) + 0.5f * noise(30 * across + 5, 11 * y);
  const float grow = std::max(jaw * std::max(nuisance_.beard, shadow),
                              lip * std::max(nuisance_.moustache, shadow));
  const float cover = grow * smooth(0.15f, 0.65f, 0.55f * strand + 0.55f * grow);
  feature.albedo = mix(feature.albedo, beard_ * (0.55f + 0.9f * strand), 0.93f * cover);
  feature.gloss *= 1 - 0.8f * cover;
}

void Shader::add_brow(const Vertex& vertex, Feature& feature) const {
  const BrowCurves& brow = head_.brow();
  const float x = vertex.position.x, y = vertex.position.y,
              s = (std::abs(x) - brow.x) / brow.half_length;
  if (std::abs(s) > 1.15f) return;
  const float across =
      (y - brow.centre(s)) / (brow.half_thickness(std::clamp(s, -1.0f, 1.0f)) + 0.3f * pixel_);
  if (std::abs(across) > 1.6f) return;
  // Hairs lean outwards, more so at the outer end.
  const float lean = std::abs(x) * 42 - y * (26 - 22 * s);
  const float strand = noise(lean, 9 * y + 20);
  const float body = smooth(1.5f, 0.45f, std::abs(across)) * smooth(1.14f, 0.70f, std::abs(s));
  const float cover = clamp01(body * head_.face().brow_dark * (0.62f + 0.75f * strand));
  feature.albedo = mix(feature.albedo, brow_, cover);
  feature.gloss *= 1 - cover;
  if (std::abs(across) < 1 && std::abs(s) < 1) feature.region = x < 0 ? kLeftBrow : kRightBrow;
}

void Shader::add_scalp(const Vertex& vertex, Feature& feature) const {
  const float y = vertex.position.y, u = vertex.u;
  const float over = y - hair_.root(u) + 0.07f * (noise(38 * u, 4 * y) - 0.5f);
  const float cover = smooth(-0.03f, 0.05f, over);
  if (cover <= 0) return;
  feature.albedo =
      mix(feature.albedo, hair_colour_ * (0.4f + 0.6f * noise(40 * u, 3 * y)), 0.92f * cover);
  feature.gloss *= 1 - cover;
  if (cover > 0.5f) feature.region = kHairRegion;
}

void Shader::add_eye(const Vertex& vertex, Shaded& shaded) const {
  const EyeCurves& eye = head_.eye();
  const float x = vertex.position.x, y = vertex.position.y,
              s = (std::abs(x) - eye.x) / eye.half_width;
  if (std::abs(s) > 1.25f) return;
  const float rim = std::clamp(s, -1.0f, 1.0f), upper = eye.upper(rim), lower = eye.lower(rim);
  const float ends = smooth(1.22f, 0.95f, std::abs(s));
  // The fold of the lid, then the lashes' line: thick above, thin below.
  const float fold = y - upper - 0.048f - 0.012f * eye.up / eye.half_width;
  float dark = 0.50f * head_.face().lid_crease * bump(fold / (0.010f + 0.5f * pixel_), s / 1.25f);
  dark = std::max(dark, 0.88f * ends * bump((y - upper - 0.006f) / (0.013f + 0.5f * pixel_), 0));
  dark = std::max(dark, 0.34f * ends * bump((y - lower + 0.004f) / (0.009f + 0.4f * pixel_), 0));
  shaded.colour = mix(shaded.colour, brow_ * 0.25f, dark);
  if (std::abs(s) >= 1 || head_.expression().closed > 0.5f) return;
  const float inside = smooth(-0.4f * pixel_, 0.5f * pixel_, std::min(upper - y, y - lower));
  if (inside <= 0) return;
  const float side = x < 0 ? -1.0f : 1.0f;
  shaded.colour = mix(shaded.colour, eyeball(vertex, side, upper - y), inside);
  if (inside > 0.5f) shaded.region = x < 0 ? kLeftEye : kRightEye;
}

Vec3 Shader::eyeball(const Vertex& vertex, float side, float below_lid) const {
  constexpr float kRadius = 0.125f;
  const Vec3 view = unit(camera_.towards(vertex.position));
  const float lit = vertex.lit;
  const EyeCurves& eye = head_.eye();
  const Vec3 centre{side * eye.x, eye.y, socket_z_};
  const Vec3 from = vertex.position - centre;
  const float along = dot(from, view), miss = dot(from, from) - along * along;
  const Vec3 hit = from - view * (along - std::sqrt(std::max(0.0f, kRadius * kRadius - miss)));
  const Vec3 normal = unit(hit);
  const float angle = 1 - dot(normal, gaze_);  // 0 at the pupil's middle
  const float soft = 0.25f * pixel_ / kRadius * 0.5f;
  const float vein = noise(40 * vertex.position.x, 40 * vertex.position.y);
  Vec3 colour = Vec3{0.55f, 0.50f, 0.46f} * (0.93f + 0.12f * vein);
  const float corner = (std::abs(vertex.position.x) - eye.x) / eye.half_width;
  colour = mix(colour, Vec3{0.45f, 0.20f, 0.16f}, 0.6f * smooth(-0.72f, -0.95f, corner));
  const float in_iris = smooth(0.125f + soft, 0.115f - soft, angle);
  const float ring = smooth(0.06f, 0.12f, angle);
  colour = mix(colour, iris_ * (1.25f - 0.85f * ring) * (0.8f + 0.4f * vein), in_iris);
  colour = mix(colour, Vec3{0.006f, 0.005f, 0.005f}, smooth(0.028f + soft, 0.018f - soft, angle));
  // The lid shades the eye's upper part.
  Surface surface{colour * mix(0.42f, 1.0f, smooth(0.0f, 0.06f, below_lid)),
                  unit(normal + Vec3{0, 0, 0.6f}), 0, true, 0.85f};
  Vec3 out = lit_surface(surface, view, mix(0.4f * lit, lit, smooth(0.0f, 0.05f, below_lid)));
  const Vec3 half = unit(light_.key_direction + view);
  const float glint = power16(power4(std::max(0.0f, dot(normal, half))));
  return out + light_.key * (0.55f * glint * lit * std::min(1.0f, 8 * below_lid / 0.1f));
}

}  // namespace facetrain::synthetic
