// Labels of a synthetic face, from the geometry that the picture was drawn from.
#pragma once

#include "data/synthetic_faces.h"
#include "data/synthetic_head.h"
#include "data/synthetic_raster.h"

namespace facetrain::synthetic {

// The 68 points of iBUG 300-W on the head's surface, in the head's frame.
std::array<Vec3, 68> landmark_points(const HeadShape& head);
// Eye centres, nose tip and mouth corners, the image's left first (the order of the five points
// that recognition networks are aligned by).
std::array<Vec3, 5> five_points(const HeadShape& head);

// Pose, gaze, landmarks and their visibility, attributes, expression, age and quality of `face`.
// `cover` is the occluder's, [size * size] or empty.
void write_labels(const HeadShape& head, const Nuisance& nuisance, const Rasterizer& rasterizer,
                  const std::vector<float>& cover, SyntheticFace& face);

}  // namespace facetrain::synthetic
