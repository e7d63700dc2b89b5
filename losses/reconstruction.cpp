#include "losses/reconstruction.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace facetrain {

at::Tensor patches_of(const at::Tensor& images, int64_t patch) {
  FT_CHECK(images.dim() == 4 && images.size(2) % patch == 0 && images.size(3) % patch == 0,
           "patches of {} pixels do not divide an image of {} x {}", patch, images.size(2),
           images.size(3));
  const int64_t rows = images.size(2) / patch, columns = images.size(3) / patch;
  return images.reshape({images.size(0), images.size(1), rows, patch, columns, patch})
      .permute({0, 2, 4, 3, 5, 1})
      .reshape({images.size(0), rows * columns, patch * patch * images.size(1)});
}

at::Tensor images_of(const at::Tensor& patches, int64_t patch, int64_t height, int64_t width) {
  const int64_t rows = height / patch, columns = width / patch;
  const int64_t channels = patches.size(2) / (patch * patch);
  return patches.reshape({patches.size(0), rows, columns, patch, patch, channels})
      .permute({0, 5, 1, 3, 2, 4})
      .reshape({patches.size(0), channels, height, width});
}

at::Tensor normalise_patches(const at::Tensor& patches) {
  const auto mean = patches.mean(-1, /*keepdim=*/true);
  const auto variance = patches.var(-1, /*unbiased=*/true, /*keepdim=*/true);
  return (patches - mean) / (variance + 1e-6).sqrt();
}

at::Tensor masked_error(const at::Tensor& prediction, const at::Tensor& target,
                        const at::Tensor& removed) {
  const auto type = prediction.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const auto errors = (prediction.to(type) - target.to(type)).square().mean(-1);
  const auto weights = removed.to(type);
  return (errors * weights).sum(1) / weights.sum(1);
}

}  // namespace facetrain
