#include "data/fit.h"

#include <ATen/ATen.h>

#include <algorithm>

#include "data/image_codec.h"
#include "data/resize.h"

namespace facetrain {
namespace {

std::span<uint8_t> pixels_of(at::Tensor& image) {
  return {image.mutable_data_ptr<uint8_t>(), static_cast<size_t>(image.numel())};
}

// The window of `placement` out of the stored pixels.
void crop(const std::vector<uint8_t>& in, int64_t channels, const Placement& placement,
          uint8_t* out) {
  for (int64_t y = 0; y < placement.height; ++y) {
    const int64_t begin =
        ((y + placement.top) * placement.stored_width + placement.left) * channels;
    std::copy_n(in.data() + begin, placement.width * channels,
                out + y * placement.width * channels);
  }
}

bool is_crop(const Placement& placement) {
  return placement.scale_x == 1 && placement.scale_y == 1;
}

}  // namespace

Placement place_image(int64_t height, int64_t width, const ImageOptions& options) {
  Placement placement{height, width, height, width, 1, 1, 0, 0};
  const int64_t size = options.size;
  if (size == 0 || (height == size && width == size)) return placement;
  placement.height = placement.width = size;
  if (options.fit == "resize") {
    placement.scale_x = static_cast<double>(size) / static_cast<double>(width);
    placement.scale_y = static_cast<double>(size) / static_cast<double>(height);
    return placement;
  }
  if (options.fit == "crop") {
    FT_CHECK(height >= size && width >= size,
             "cannot crop {} x {} pixels out of an image of {} x {}: set data.fit=resize", size,
             size, width, height);
    placement.left = (width - size) / 2;
    placement.top = (height - size) / 2;
    return placement;
  }
  FT_CHECK(options.fit == "error", "data.fit: wanted resize, crop or error, found '{}'",
           options.fit);
  FT_FAIL(
      "wanted an image of {} x {} pixels, found {} x {}: set data.fit=resize or data.fit=crop, or "
      "data.size to the stored size",
      size, size, width, height);
}

at::Tensor decode_fitted(std::span<const uint8_t> bytes, const ImageOptions& options,
                         const at::Tensor& room, Placement& placement) {
  const ImageInfo info = probe_image(bytes);
  placement = place_image(info.height, info.width, options);
  const bool fits =
      room.defined() && room.size(0) == placement.height && room.size(1) == placement.width;
  at::Tensor image = fits ? room : at::empty({placement.height, placement.width, 3}, at::kByte);
  if (!placement.changed()) {
    decode_image_into(bytes, info, pixels_of(image));
    return image;
  }
  const Image stored = decode_image(bytes);
  if (is_crop(placement)) {
    crop(stored.pixels, 3, placement, image.mutable_data_ptr<uint8_t>());
  } else {
    resize_image(stored.pixels, info.height, info.width, 3, pixels_of(image), placement.height,
                 placement.width);
  }
  return image;
}

at::Tensor decode_fitted_mask(std::span<const uint8_t> bytes, const Placement& placement) {
  const Image stored = decode_mask(bytes);
  FT_CHECK(stored.height == placement.stored_height && stored.width == placement.stored_width,
           "its mask has {} x {} pixels, its image {} x {}", stored.width, stored.height,
           placement.stored_width, placement.stored_height);
  at::Tensor mask = at::empty({placement.height, placement.width}, at::kByte);
  if (!placement.changed()) {
    std::copy(stored.pixels.begin(), stored.pixels.end(), mask.mutable_data_ptr<uint8_t>());
  } else if (is_crop(placement)) {
    crop(stored.pixels, 1, placement, mask.mutable_data_ptr<uint8_t>());
  } else {
    resize_nearest(stored.pixels, stored.height, stored.width, 1, pixels_of(mask), placement.height,
                   placement.width);
  }
  return mask;
}

void move_points(at::Tensor& points, const Placement& placement) {
  if (!placement.changed()) return;
  auto* xy = points.mutable_data_ptr<float>();
  for (int64_t i = 0; i < points.numel(); i += 2) {
    xy[i] = static_cast<float>((xy[i] + 0.5) * placement.scale_x - 0.5 -
                               static_cast<double>(placement.left));
    xy[i + 1] = static_cast<float>((xy[i + 1] + 0.5) * placement.scale_y - 0.5 -
                                   static_cast<double>(placement.top));
  }
}

}  // namespace facetrain
