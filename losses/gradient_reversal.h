// Gradient reversal (Ganin and Lempitsky 2015, arXiv:1409.7495): the same going forward, the
// gradient times -strength going back.
#pragma once

#include <ATen/core/Tensor.h>

namespace facetrain {

at::Tensor reverse_gradient(const at::Tensor& x, double strength);

}  // namespace facetrain
