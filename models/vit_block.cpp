#include "models/vit_block.h"

#include <cmath>

namespace facetrain {

using torch::Tensor;

VitBlockImpl::VitBlockImpl(const VitBlockShape& s)
    : norm1_(register_module("norm1", LayerNorm(s.dim, s.norm_eps))),
      attn_(register_module("attn", Attention(s.dim, s.heads, s.qkv_bias))),
      norm2_(register_module("norm2", LayerNorm(s.dim, s.norm_eps))),
      mlp_(register_module(
          "mlp", Mlp(s.dim, std::llround(static_cast<double>(s.dim) * s.mlp_ratio), s.activation))),
      drop_path1_(register_module("drop_path1", DropPath(s.drop_path, s.name + ".drop_path1"))),
      drop_path2_(register_module("drop_path2", DropPath(s.drop_path, s.name + ".drop_path2"))) {
  if (s.layer_scale == 0) return;
  ls1_ = register_module("ls1", LayerScale(s.dim, s.layer_scale));
  ls2_ = register_module("ls2", LayerScale(s.dim, s.layer_scale));
}

Tensor VitBlockImpl::forward(const Tensor& x, Tensor* attention) {
  const auto scaled = [](LayerScale& scale, const Tensor& y) { return scale ? scale(y) : y; };
  const auto y = x + drop_path1_(scaled(ls1_, attn_(norm1_(x), attention)));
  return y + drop_path2_(scaled(ls2_, mlp_(norm2_(y))));
}

}  // namespace facetrain
