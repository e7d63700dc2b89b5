// One block of a vision transformer: x + attention(norm(x)), then x + mlp(norm(x)), each branch
// with its layer scale and drop path. timm's names.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "models/attention.h"
#include "models/transformer_layers.h"

namespace facetrain {

struct VitBlockShape {
  int64_t dim, heads;
  double mlp_ratio = 4, layer_scale = 0, drop_path = 0, norm_eps = 1e-6;  // layer_scale 0: none
  bool qkv_bias = true;
  Activation activation = Activation::kGelu;
  std::string name = {};  // of the block in its network: its draws are by that name
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

// Blocks in a row, children `0`, `1` ...; to be registered as `blocks`. The drop path of `shape` is
// the last block's and rises to it from 0.
class VitBlocksImpl : public torch::nn::Module {
 public:
  VitBlocksImpl(VitBlockShape shape, int64_t depth, bool checkpoint_activations);
  // [B, N, D]. Outputs for which `asked` is true go into `taps`, if given.
  torch::Tensor forward(torch::Tensor x,
                        const std::function<bool(const std::string&)>& asked = nullptr,
                        std::map<std::string, torch::Tensor>* taps = nullptr);
  // "blocks.N", a block's output [B, N, D]; "attention.N", its attention [B, heads, N, N].
  std::vector<std::string> taps() const;

 private:
  bool checkpoint_;
  std::vector<VitBlock> blocks_;
};
TORCH_MODULE(VitBlocks);

}  // namespace facetrain
