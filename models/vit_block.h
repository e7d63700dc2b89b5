// One block of a vision transformer: x + attention(norm(x)), then x + mlp(norm(x)), each branch
// with its layer scale and drop path. timm's names.
#pragma once

#include <string>

#include "models/attention.h"
#include "models/transformer_layers.h"

namespace facetrain {

struct VitBlockShape {
  int64_t dim, heads;
  double mlp_ratio = 4, layer_scale = 0, drop_path = 0, norm_eps = 1e-6;  // layer_scale 0: none
  bool qkv_bias = true;
  Activation activation = Activation::kGelu;
  std::string name;  // of the block in its network: its draws are by that name
};

// Children `norm1`, `attn`, `ls1`, `norm2`, `mlp`, `ls2`.
class VitBlockImpl : public torch::nn::Module {
 public:
  explicit VitBlockImpl(const VitBlockShape& shape);
  // [B, N, D]. `attention`, if given, receives the attention's softmax [B, heads, N, N].
  torch::Tensor forward(const torch::Tensor& x, torch::Tensor* attention = nullptr);

 private:
  LayerNorm norm1_;
  Attention attn_;
  LayerNorm norm2_;
  Mlp mlp_;
  DropPath drop_path1_, drop_path2_;
  LayerScale ls1_{nullptr}, ls2_{nullptr};
};
TORCH_MODULE(VitBlock);

}  // namespace facetrain
