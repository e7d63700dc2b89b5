// What is around the head in an image: background, occluders, and the camera's own faults.
#pragma once

#include <vector>

#include "data/image_codec.h"
#include "data/synthetic_parameters.h"

namespace facetrain::synthetic {

// Linear-light pixels, row by row.
struct Canvas {
  int size = 0;
  std::vector<Vec3> pixels;
};

// An out-of-focus room, street or garden in muted colours; even grey for the plain identity.
Canvas paint_background(const Nuisance& nuisance, int size);

// Paints the occluder over the picture; `cover` [size * size] says where: 0 ... 1. It stays empty
// without an occluder.
void paint_occluder(const Nuisance& nuisance, Canvas& canvas, std::vector<float>& cover);

// Exposure, saturation, tone curve, resolution, blur, noise: 8-bit pixels.
Image develop(const Nuisance& nuisance, const Canvas& canvas);

}  // namespace facetrain::synthetic
