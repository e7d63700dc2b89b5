// The blocks that transformers and ConvNeXt share beside models/layers.h. Parameters bear the names
// of timm's modules; the network that owns a block initialises all but norms and layer scales,
// which start at their usual constants.
#pragma once

#include "core/torch.h"
#include "models/layers.h"

namespace facetrain {

// Layer normalisation over the last axis. Parameters `weight` [D] of 1, `bias` [D] of 0. Under
// autocast statistics are in fp32, and the result has the type that PyTorch's autocast gives it.
class LayerNormImpl : public torch::nn::Module {
 public:
  explicit LayerNormImpl(int64_t dim, double eps = 1e-6);
  torch::Tensor forward(const torch::Tensor& x);
  torch::Tensor weight, bias;

 private:
  double eps_;
};
TORCH_MODULE(LayerNorm);

// x · gamma over the last axis (Touvron 2021, arXiv:2103.17239). Parameter `gamma` [D].
class LayerScaleImpl : public torch::nn::Module {
 public:
  LayerScaleImpl(int64_t dim, double initial);
  torch::Tensor forward(const torch::Tensor& x);
  torch::Tensor gamma;
};
TORCH_MODULE(LayerScale);

// kGelu is the exact one (erf); kQuickGelu is CLIP's x · σ(1.702 x).
enum class Activation { kGelu, kQuickGelu, kRelu6 };
torch::Tensor activate(const torch::Tensor& x, Activation activation);

// fc2(activation(fc1(x))) over the last axis, [..., D] -> [..., D]. Parameters `fc1.*`, `fc2.*`.
class MlpImpl : public torch::nn::Module {
 public:
  MlpImpl(int64_t dim, int64_t hidden, Activation activation = Activation::kGelu);
  torch::Tensor forward(const torch::Tensor& x);
  Linear fc1, fc2;

 private:
  Activation activation_;
};
TORCH_MODULE(Mlp);

// The drop-path probability of block k of n: rises linearly from 0 to `last` (timm's linspace).
double drop_path_at(double last, int64_t block, int64_t blocks);

}  // namespace facetrain
