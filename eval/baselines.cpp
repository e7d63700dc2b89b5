#include "eval/baselines.h"

#include <ATen/ATen.h>

#include "core/check.h"

namespace facetrain {
namespace {
void check_images(const at::Tensor& images) {
  FT_CHECK(images.dim() == 4 && images.size(3) == 3 && images.scalar_type() == at::kByte,
           "wanted images [B, H, W, 3] uint8, found {} of {}", fmt::join(images.sizes(), " x "),
           toString(images.scalar_type()));
}
}  // namespace

at::Tensor pixel_features(const at::Tensor& images) {
  check_images(images);
  return images.flatten(1).to(at::kFloat) - 127.5;
}

at::Tensor histogram_features(const at::Tensor& images) {
  check_images(images);
  const at::Tensor cell =
      at::bitwise_right_shift(images, 5).to(at::kLong);  // [B, H, W, 3] of 0 ... 7
  const at::Tensor number =
      (cell.select(3, 0) * 64 + cell.select(3, 1) * 8 + cell.select(3, 2)).flatten(1);
  at::Tensor counts = at::zeros({images.size(0), 512}, at::kFloat);
  counts.scatter_add_(1, number, at::ones(number.sizes(), at::kFloat));
  return (counts / static_cast<double>(number.size(1))).sqrt();
}

}  // namespace facetrain
