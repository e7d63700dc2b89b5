// The shared blocks of all networks. Linear and Conv2d are ours, so that adapters can be filled in
// without touching a trunk. Parameters are registered under PyTorch's names; the network that owns
// a block initialises them.
#pragma once

#include <string>

#include "core/torch.h"
#include "models/batch_norm.h"

namespace facetrain {

// y = x W^T + b. Parameters `weight` [out, in], `bias` [out].
class LinearImpl : public torch::nn::Module {
 public:
  LinearImpl(int64_t in, int64_t out, bool bias = true);
  torch::Tensor forward(const torch::Tensor& x);
  torch::Tensor weight, bias;
};
TORCH_MODULE(Linear);

struct ConvOptions {
  int64_t in, out, kernel;
  int64_t stride = 1, padding = 0, groups = 1;
  bool bias = false;
};
// A strided 1x1 convolution slices first and then runs with stride 1: the same result, and
// torch 2.11 crashes on the fp32 channels_last weight gradient of the strided form
// (reference/platform.md 2.0).
class Conv2dImpl : public torch::nn::Module {
 public:
  explicit Conv2dImpl(const ConvOptions& options);
  torch::Tensor forward(const torch::Tensor& x);
  torch::Tensor weight, bias;  // [out, in / groups, k, k], [out] or undefined
  const ConvOptions options;
};
TORCH_MODULE(Conv2d);

// PReLU with one slope a channel, initialised to 0.25. Parameter `weight` [C].
class PReluImpl : public torch::nn::Module {
 public:
  explicit PReluImpl(int64_t channels);
  torch::Tensor forward(const torch::Tensor& x);
  torch::Tensor weight;
};
TORCH_MODULE(PRelu);

// Zeroes elements with the given probability in training and scales the others by 1 / (1 -
// probability). The draw is sample_uniform(name), so it wants a StepScope; `name` is the layer's
// full name and differs between layers.
class DropoutImpl : public torch::nn::Module {
 public:
  DropoutImpl(double probability, std::string name);
  torch::Tensor forward(const torch::Tensor& x);

 private:
  double probability_;
  std::string name_;
};
TORCH_MODULE(Dropout);

// Stochastic depth: zeroes whole samples of a residual branch (Huang 2016), drawn and scaled as
// Dropout does.
class DropPathImpl : public torch::nn::Module {
 public:
  DropPathImpl(double probability, std::string name);
  torch::Tensor forward(const torch::Tensor& x);

 private:
  double probability_;
  std::string name_;
};
TORCH_MODULE(DropPath);

// x[:, :, ::stride, ::stride] for [B, C, H, W], dense in x's own memory format, forward and
// backward.
torch::Tensor take_every(const torch::Tensor& x, int64_t stride);

// Below this guard nothing is autocast; to_full_precision() lifts what autocast made half-width
// back to fp32.
using NoAutocast =
    c10::impl::ExcludeDispatchKeyGuard;  // NoAutocast off(c10::autocast_dispatch_keyset);
torch::Tensor to_full_precision(const torch::Tensor& x);

// Gives every 4-d parameter below `module` channels_last strides; values and names stay.
void to_channels_last(torch::nn::Module& module);
// Casts floating-point parameters and buffers; counters stay integers (Module::to would cast them
// too).
void to_dtype(torch::nn::Module& module, torch::Dtype dtype);

}  // namespace facetrain
