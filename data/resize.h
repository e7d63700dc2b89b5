// Resampling of 8-bit images: area when shrinking, bilinear when growing, antialiased in between.
//
// The filter is a triangle of the width of one output pixel (at least of one input pixel),
// normalised at the borders; pixel i covers [i, i + 1). Integer arithmetic: the same bytes on every
// machine. The result is what Pillow's BILINEAR gives, within 1.
#pragma once

#include <cstdint>
#include <span>

namespace facetrain {

// in [height, width, channels] -> out [out_height, out_width, channels]. Throws when a span has
// another size.
void resize_image(std::span<const uint8_t> in, int64_t height, int64_t width, int64_t channels,
                  std::span<uint8_t> out, int64_t out_height, int64_t out_width);

// Nearest input pixel, for class numbers.
void resize_nearest(std::span<const uint8_t> in, int64_t height, int64_t width, int64_t channels,
                    std::span<uint8_t> out, int64_t out_height, int64_t out_width);

}  // namespace facetrain
