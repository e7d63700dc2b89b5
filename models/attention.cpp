#include "models/attention.h"

#include <ATen/ops/scaled_dot_product_attention.h>

#include <cmath>

#include "core/check.h"

namespace facetrain {

using torch::Tensor;

AttentionImpl::AttentionImpl(int64_t dim, int64_t heads, bool qkv_bias)
    : heads_(heads),
      qkv_(register_module("qkv", Linear(dim, 3 * dim, qkv_bias))),
      proj_(register_module("proj", Linear(dim, dim))) {
  FT_CHECK(heads >= 1 && dim % heads == 0,
           "attention of width {} cannot be split into {} heads: choose model.heads or model.width "
           "so that it divides",
           dim, heads);
}

Tensor AttentionImpl::forward(const Tensor& x, Tensor* weights) {
  const int64_t tokens = x.size(1), dim = x.size(2);  // the number of images is not used
  const auto qkv = qkv_(x).reshape({-1, tokens, 3, heads_, dim / heads_}).permute({2, 0, 3, 1, 4});
  const auto q = qkv.select(0, 0), k = qkv.select(0, 1), v = qkv.select(0, 2);
  Tensor y;
  if (weights) {
    const double scale = 1 / std::sqrt(static_cast<double>(dim / heads_));
    *weights = at::softmax(to_full_precision(at::matmul(q * scale, k.transpose(2, 3))), -1);
    y = at::matmul(*weights, v.to(weights->scalar_type()));
  } else {
    y = at::scaled_dot_product_attention(q, k, v);
  }
  return proj_(y.transpose(1, 2).reshape({-1, tokens, dim}));
}

}  // namespace facetrain
