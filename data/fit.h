// data.size and data.fit: images to one size after decoding, and their labels with them.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "data/source.h"

namespace facetrain {

// Where the stored image went: output = (input + 0.5) * scale - 0.5 - origin, in pixels from the
// top-left pixel's centre.
struct Placement {
  int64_t stored_height = 0, stored_width = 0, height = 0, width = 0;
  double scale_x = 1, scale_y = 1;
  int64_t left = 0, top = 0;  // of a crop
  bool changed() const { return stored_height != height || stored_width != width; }
};

// Throws (with both sizes and what to set) where `options.fit` does not allow it.
Placement place_image(int64_t height, int64_t width, const ImageOptions& options);

// The image [H, W, 3] of encoded bytes after `options`, in `room` where that has its size.
at::Tensor decode_fitted(std::span<const uint8_t> bytes, const ImageOptions& options,
                         const at::Tensor& room, Placement& placement);
// A mask [H, W] of PNG bytes, moved by nearest pixel. Throws unless it has the stored image's size.
at::Tensor decode_fitted_mask(std::span<const uint8_t> bytes, const Placement& placement);
// Points [..., 2] in pixels, in place.
void move_points(at::Tensor& points, const Placement& placement);

}  // namespace facetrain
