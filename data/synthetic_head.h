// The head's surface and the curves of its features, as functions of identity, expression and age.
//
// A horizontal section of the head at height y is two half-ellipses (front and back); features of
// the face are a relief that moves the front along z only. So the front is a height field: every
// feature and every landmark is a point (x, y) with z = HeadShape::point, exactly on the surface.
#pragma once

#include <vector>

#include "data/synthetic_math.h"
#include "data/synthetic_parameters.h"

namespace facetrain::synthetic {

// One eye's opening in head coordinates; `s` runs from -1 (inner corner) to 1 (outer corner).
struct EyeCurves {
  float x, y, half_width, tilt, up, down;
  float upper(float s) const { return y + tilt * s + up * (1 - s * s) * (1 - 0.18f * s); }
  float lower(float s) const { return y + tilt * s - down * (1 - s * s) * (1 + 0.25f * s); }
};

// One brow's centre line; `s` from -1 (inner end) to 1 (outer end).
struct BrowCurves {
  float x, y, half_length, tilt, arch, thick, inner_lift;
  float centre(float s) const {
    return y + tilt * s + arch * (1 - square(s - 0.35f)) +
           inner_lift * square(std::min(s - 0.3f, 0.0f));
  }
  float half_thickness(float s) const {
    return thick * (s < 0 ? 1 - 0.25f * s * s : 1 - 0.7f * s * s);
  }
};

// The mouth; `t` from -1 (image-left corner) to 1.
struct MouthCurves {
  float y, half_width, lift, gap_up, gap_down, upper, lower, bow;
  float middle(float t) const { return y + lift * square(t) * (0.6f + 0.4f * square(t)); }
  float inner_top(float t) const { return middle(t) + gap_up * (1 - t * t); }
  float inner_bottom(float t) const { return middle(t) - gap_down * (1 - t * t); }
  float outer_top(float t) const {
    const float a = std::abs(t), peak = 1 - square((a - 0.22f) / 0.5f);
    return inner_top(t) + upper * (1 - t * t) * (0.9f + 0.22f * bow * std::max(peak, -1.0f));
  }
  float outer_bottom(float t) const {
    return inner_bottom(t) - lower * (1 - t * t) * (1 + 0.3f * t * t);
  }
};

struct NoseCurves {
  float top, tip, base, width, bridge, out, hump;
  // Half-width of the relief at height y.
  float half_width(float y) const;
  // How far the ridge stands out at height y.
  float height(float y) const;
};

class HeadShape {
 public:
  HeadShape(const FaceIdentity& face, const Expression& expression, float age);

  // The horizontal section at height y: half-width, z of the widest place, of the front and the
  // back.
  struct Section {
    float half_width, centre, front, back, flat;
  };
  Section section(float y) const;

  // The skull without features at angle theta (0 = front, positive to the image's right), moved
  // outwards by `offset`.
  static Vec3 on_section(const Section& section, float y, float sine, float cosine, float offset);

  // How far features stand out in front of the skull; symmetric, `ax` = |x|.
  float relief(float ax, float y) const;
  // The point of the front surface at (x, y).
  Vec3 point(float x, float y) const;

  float chin() const { return chin_; }      // y of the lowest point
  float jaw_angle() const { return jaw_; }  // y of the jaw's angle
  const FaceIdentity& face() const { return face_; }
  const Expression& expression() const { return expression_; }
  const EyeCurves& eye() const { return eye_; }
  const BrowCurves& brow() const { return brow_; }
  const MouthCurves& mouth() const { return mouth_; }
  const NoseCurves& nose() const { return nose_; }
  float age() const { return age_; }

 private:
  void place_features();
  void tabulate();
  Section exact_section(float y) const;
  float nose_relief(float ax, float y) const;
  float mouth_relief(float ax, float y) const;

  static constexpr int kSections = 160;
  static constexpr float kTop = 1.12f, kBottom = -1.36f;

  FaceIdentity face_;
  Expression expression_;
  float age_;
  float chin_, jaw_;
  EyeCurves eye_;
  BrowCurves brow_;
  MouthCurves mouth_;
  NoseCurves nose_;
  Curve<6> width_, front_, centre_, back_;
  std::vector<Section> sections_;
};

}  // namespace facetrain::synthetic
