// Self-attention of a transformer (Vaswani 2017), timm's names.
#pragma once

#include "core/torch.h"
#include "models/layers.h"

namespace facetrain {

// Parameters `qkv.weight` [3D, D] (all of q, then k, then v; in each the heads in order),
// `qkv.bias` if asked for, `proj.*`. The number of heads is in no tensor, so it must be told.
class AttentionImpl : public torch::nn::Module {
 public:
  AttentionImpl(int64_t dim, int64_t heads, bool qkv_bias);
  // [B, N, D] -> [B, N, D]. With `weights` the softmax [B, heads, N, N] is computed explicitly and
  // put there; else by PyTorch's fused attention.
  torch::Tensor forward(const torch::Tensor& x, torch::Tensor* weights = nullptr);

 private:
  int64_t heads_;
  Linear qkv_, proj_;
};
TORCH_MODULE(Attention);

}  // namespace facetrain
