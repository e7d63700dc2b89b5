#include "data/synthetic_head.h"

namespace facetrain::synthetic {
float NoseCurves::half_width(float y) const {
  const float down = clamp01((top - y) / (top - tip));
  return mix(bridge + 0.02f, width + 0.035f, down * down * (0.35f + 0.65f * down));
}

float NoseCurves::height(float y) const {
  if (y >= top || y <= base) return 0;
  if (y < tip) {  // the underside falls from the tip to the base
    const float t = (y - base) / (tip - base);
    return out * (t * (2 - t) - 0.10f * bump((y - tip) / 0.06f, 0));
  }
  const float t = (top - y) / (top - tip);
  return out * (0.22f * smooth(0, 0.25f, t) + 0.78f * t * (0.55f + 0.45f * t * (1.6f - 0.6f * t))) +
         hump * bump((t - 0.45f) / 0.35f, 0) - 0.10f * out * bump((y - tip) / 0.06f, 0);
}

HeadShape::HeadShape(const FaceIdentity& face, const Expression& expression, float age)
    : face_(face), expression_(expression), age_(age) {
  const float open = std::max(expression.open, 0.0f);
  chin_ = -face.face_length - 0.11f * open;
  jaw_ = -0.50f * face.face_length / 0.91f - 0.02f * open;
  place_features();
  const float low = chin_ - jaw_, wide = face.face_width, jaw = wide * face.jaw_width;
  const float middle = mix(jaw, face.chin_width, mix(0.62f, 0.30f, face.jaw_square));
  const float cheek = wide + 0.35f * face.cheekbone;
  const float temple = wide * 0.94f;
  width_ = {{chin_, jaw_ + 0.80f * low, jaw_ + 0.45f * low, jaw_, -0.05f, 0.35f},
            {face.chin_width * 0.8f, face.chin_width, middle, jaw, cheek, temple}};
  const float lips = face.mouth_y;
  const float chin_front = 0.74f + face.chin_out - 0.03f * open;
  front_ = {{chin_, chin_ + 0.12f, lips, -0.20f, 0.12f, 0.40f},
            {chin_front - 0.02f, chin_front, 0.765f + 0.3f * face.chin_out, 0.775f, 0.765f,
             0.735f + face.forehead_slope}};
  centre_ = {{chin_, chin_ + 0.2f, jaw_, -0.2f, 0.1f, 0.4f},
             {0.50f, 0.26f, 0.03f, -0.02f, -0.05f, -0.08f}};
  back_ = {{chin_, chin_ + 0.2f, jaw_, -0.25f, 0.05f, 0.4f},
           {0.44f, 0.0f, -0.32f, -0.62f, -0.84f, -0.95f}};
  tabulate();
}

void HeadShape::place_features() {
  const FaceIdentity& f = face_;
  const Expression& e = expression_;
  const float lid = f.eye_height * f.eye_width;
  const float aged = smooth(40, 80, age_);
  const float opened = (1 - e.closed) * (1 + 0.42f * e.lid_wide - 0.45f * e.squint - 0.14f * aged);
  eye_ = {f.eye_x, f.eye_y, f.eye_width, f.eye_tilt, 0.60f * lid * opened, 0.40f * lid};
  eye_.down *= 1 - 0.35f * e.squint;
  if (e.closed > 0.5f) eye_.up = -0.85f * eye_.down;  // the upper lid comes down
  brow_ = {f.eye_x + 0.012f,
           f.eye_y + f.brow_y,
           f.brow_length,
           f.brow_tilt,
           f.brow_arch,
           f.brow_thick,
           0};
  brow_.y += 0.07f * e.brow_raise - 0.045f * e.brow_lower - 0.015f * e.nose_wrinkle;
  brow_.tilt += 0.03f * e.brow_lower - 0.02f * e.brow_inner;
  brow_.x -= 0.018f * e.brow_lower;
  brow_.inner_lift = 0.045f * e.brow_inner - 0.02f * e.brow_lower;
  const float lip = 1 - 0.55f * e.press - 0.12f * std::max(e.smile, 0.0f) - 0.15f * aged;
  const float gap = 0.02f * smooth(0, 0.1f, e.open) + 0.17f * e.open;
  mouth_ = {f.mouth_y + 0.015f * e.smile + 0.02f * e.upper_raise,
            f.mouth_width *
                (1 + 0.20f * e.smile + 0.16f * e.wide - 0.12f * std::max(e.open - 0.4f, 0.0f)),
            f.lip_curve + 0.055f * e.smile - 0.05f * e.frown,
            0.22f * gap + 0.018f * e.upper_raise + 0.012f * e.smile * smooth(0, 0.2f, e.open),
            0.78f * gap,
            f.upper_lip * lip,
            f.lower_lip * lip,
            f.lip_bow};
  nose_ = {f.eye_y + 0.02f,
           f.nose_y + 0.012f * e.nose_wrinkle,
           0,
           f.nose_width,
           f.nose_bridge,
           f.nose_out,
           f.nose_hump};
  nose_.base = nose_.tip - 0.085f - 0.6f * f.nose_up;
}

HeadShape::Section HeadShape::exact_section(float y) const {
  const float low = std::min(y, 0.35f);
  Section s{width_(low), centre_(low), front_(low), back_(low), 0};
  s.flat = mix(0.22f, 0.38f, smooth(-0.6f, 0.1f, y));
  // The crown closes as an ellipse; the chin rounds off within its last fifth.
  float round = y > 0.35f ? std::sqrt(std::max(0.0f, 1 - square((y - 0.35f) / 0.72f))) : 1.0f;
  const float last = clamp01((chin_ + 0.22f - y) / 0.22f);
  round *= std::sqrt(std::max(0.0f, 1 - last * last * last));
  s.half_width *= round;
  s.front = s.centre + (s.front - s.centre) * round;
  s.back = s.centre + (s.back - s.centre) * round;
  return s;
}

void HeadShape::tabulate() {
  sections_.resize(kSections + 1);
  for (int i = 0; i <= kSections; ++i) {
    sections_[i] = exact_section(mix(kBottom, kTop, static_cast<float>(i) / kSections));
  }
}

HeadShape::Section HeadShape::section(float y) const {
  const float at = clamp01((y - kBottom) / (kTop - kBottom)) * kSections;
  const int i = std::min(static_cast<int>(at), kSections - 1);
  const float t = at - static_cast<float>(i);
  const Section &a = sections_[i], &b = sections_[i + 1];
  return {mix(a.half_width, b.half_width, t), mix(a.centre, b.centre, t), mix(a.front, b.front, t),
          mix(a.back, b.back, t), mix(a.flat, b.flat, t)};
}

Vec3 HeadShape::on_section(const Section& s, float y, float sine, float cosine, float offset) {
  const float depth = cosine > 0 ? s.front - s.centre : s.centre - s.back;
  const float flat = cosine > 0 ? s.flat : 0.15f;
  const float along = cosine * (1 + flat * sine * sine);
  return {(s.half_width + offset) * sine, y, s.centre + (depth + offset) * along};
}

float HeadShape::nose_relief(float ax, float y) const {
  const NoseCurves& n = nose_;
  const float width = n.half_width(y), t = square(ax / width);
  float z = t < 1 ? n.height(y) * square(1 - t) : 0;
  // The wings, and a ball at the tip.
  const float wing_y = n.tip - 0.02f;
  z += 0.42f * n.out *
       bump((ax - 0.72f * n.width) / (0.45f * n.width + 0.01f), (y - wing_y) / 0.085f);
  z += 0.045f * bump(ax / (0.6f * n.width + 0.03f), (y - n.tip - 0.015f) / 0.095f);
  return z;
}

float HeadShape::mouth_relief(float ax, float y) const {
  const MouthCurves& m = mouth_;
  const float t = ax / m.half_width;
  float z = 0.05f * bump(ax / 0.42f, (y - m.y) / 0.30f);
  z -= 0.014f * bump(ax / 0.04f, (y - m.outer_top(0) - 0.05f) / 0.07f);
  if (t >= 1.15f) return z;
  const float inside = std::max(0.0f, 1 - t * t), top = m.inner_top(std::min(t, 1.0f));
  const float bottom = m.inner_bottom(std::min(t, 1.0f));
  const float upper = std::max(m.upper, 0.02f), lower = std::max(m.lower, 0.02f);
  const float out = (0.018f + face_.lip_out) * (1 - 0.5f * expression_.press);
  z += out * inside * bump((y - top - 0.45f * upper) / (1.15f * upper), 0);
  z += (out + 0.008f) * inside * bump((y - bottom + 0.5f * lower) / (1.1f * lower), 0);
  if (y < top && y > bottom) z -= 0.09f * inside * smooth(0, 0.05f, std::min(top - y, y - bottom));
  z -= 0.02f * bump((ax - m.half_width - 0.012f) / 0.05f, (y - m.middle(1)) / 0.06f);
  return z;
}

float HeadShape::relief(float ax, float y) const {
  const FaceIdentity& f = face_;
  const Expression& e = expression_;
  const float dx = ax - eye_.x, aged = smooth(40, 80, age_);
  float z = 0;
  if (y < nose_.top && y > nose_.base - 0.12f) z += nose_relief(ax, y);
  if (std::abs(y - mouth_.y) < 0.32f) z += mouth_relief(ax, y);
  z -= (0.03f + f.eye_deep) * bump(dx / 0.21f, (y - eye_.y - 0.03f) / 0.15f);
  z += 0.045f * bump(dx / (1.25f * eye_.half_width), (y - eye_.y) / 0.095f);
  z -= (0.012f + 0.02f * aged) * bump(dx / 0.12f, (y - eye_.y + 0.125f) / 0.045f);
  z += (0.015f + f.brow_ridge) * bump((ax - 0.22f) / 0.34f, (y - brow_.y + 0.02f) / 0.12f);
  z += (0.03f + 0.6f * f.cheekbone) * bump((ax - 0.46f) / 0.26f, (y + 0.10f) / 0.22f);
  z += (0.01f + f.cheek) * bump((ax - 0.40f) / 0.28f, (y + 0.42f) / 0.30f);
  z += 0.045f * std::max(e.smile, 0.0f) * bump((ax - 0.36f) / 0.18f, (y + 0.20f) / 0.17f);
  z -= 0.03f * bump((ax - 0.66f) / 0.16f, (y - 0.34f) / 0.24f);
  // The fold from the wing of the nose to the corner of the mouth.
  const float fold_t = (nose_.tip - y) / (nose_.tip - mouth_.y);
  const float fold_x = mix(f.nose_width + 0.05f, mouth_.half_width + 0.06f, fold_t);
  const float fold = 0.006f + 0.022f * aged + 0.018f * std::max(e.smile, e.nose_wrinkle);
  z -= fold * bump((ax - fold_x) / 0.045f, (fold_t - 0.5f) / 0.75f);
  z -= 0.025f * bump(ax / 0.22f, (y - mouth_.outer_bottom(0) + 0.045f) / 0.06f);
  z += 0.035f * bump(ax / (f.chin_width + 0.05f), (y - chin_ - 0.12f) / 0.13f);
  return z;
}

Vec3 HeadShape::point(float x, float y) const {
  const Section s = section(y);
  const float sine = std::clamp(x / std::max(s.half_width, 1e-4f), -1.0f, 1.0f);
  const float cosine = std::sqrt(1 - sine * sine);
  Vec3 p = on_section(s, y, sine, cosine, 0);
  p.z += relief(std::abs(p.x), y) * smooth(0.02f, 0.30f, cosine);
  return p;
}

}  // namespace facetrain::synthetic
