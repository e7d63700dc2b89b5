// Pixels as the targets of masked autoencoders. He et al. 2022, arXiv:2111.06377, section 3.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace facetrain {

// Images [B, C, H, W] -> patches [B, L, p p C] row by row; within a patch by row, column, channel.
// Throws unless p divides both sides. Inverse: images_of().
at::Tensor patches_of(const at::Tensor& images, int64_t patch);
at::Tensor images_of(const at::Tensor& patches, int64_t patch, int64_t height, int64_t width);

// Each patch by its own mean and unbiased variance: (x - mean) / sqrt(variance + 1e-6).
at::Tensor normalise_patches(const at::Tensor& patches);

// Mean squared error of each row over the patches that `removed` [B, L] selects (the same number in
// every row, at least one): prediction and target [B, L, n], in fp32 or fp64. [B]
at::Tensor masked_error(const at::Tensor& prediction, const at::Tensor& target,
                        const at::Tensor& removed);

}  // namespace facetrain
