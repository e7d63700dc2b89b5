// Meshes of the body and of what is worn on it, and where hair grows.
#pragma once

#include <vector>

#include "data/synthetic_head.h"
#include "data/synthetic_raster.h"

namespace facetrain::synthetic {

// u = angle, w = concavity (positive in folds).
GridMesh head_mesh(const HeadShape& head);
GridMesh neck_mesh(const HeadShape& head);
// u, v = position on the ear, w = distance from its middle; side is -1 (image left) or 1.
GridMesh ear_mesh(const HeadShape& head, float side);
GridMesh clothes_mesh(const HeadShape& head);

// Where hair grows and where its strands end, by the angle around the head.
class HairShape {
 public:
  HairShape(const HeadShape& head, const HairStyle& style, const Wear& wear);
  bool none() const { return style_.cut == HairCut::kBald; }
  float root(float theta) const { return root_(std::abs(theta)); }  // y of the hairline
  float end(float theta) const;                                     // y where strands end
  // 1 where a strand is, 0 in gaps: u = across strands, v = y, w = distance from the end.
  int keep(float u, float v, float w) const;
  const HairStyle& style() const { return style_; }
  // u = across strands, v = y, w = distance from the strands' end.
  GridMesh mesh(const HeadShape& head) const;

 private:
  float thickness(float theta, float y, float to_end) const;
  HairStyle style_;
  bool covered_;  // by a hat
  float cover_line_;
  float shift_;  // of the noise, by the style's key
  Curve<7> root_, end_;
};

// Cap, beanie or brimmed hat; the brim is a second mesh. u = angle, v = 0 at the crown ... 1.
std::vector<GridMesh> hat_meshes(const HeadShape& head, const Wear& wear);

// Sheet of frame and lenses (u, v = x, y of the head) and the two temples.
std::vector<GridMesh> glasses_meshes(const HeadShape& head, const Wear& wear);
// 0 beside the glasses, 1 frame, 2 lens.
int glasses_part(const HeadShape& head, const Wear& wear, float x, float y);

// A pleated medical mask (u = -1 ... 1 across, v = 0 ... 1 down) and its ear loops.
std::vector<GridMesh> mask_meshes(const HeadShape& head);

}  // namespace facetrain::synthetic
