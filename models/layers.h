// The shared blocks of all networks. Linear and Conv2d are ours, so that adapters can be filled in without touching a trunk.
#pragma once

#include <torch/torch.h>

#include <optional>
#include <string>

#include "core/deferred.h"

namespace facetrain {

// y = x W^T + b. Parameters `weight` [out, in], `bias` [out]. Initialised by the network that owns it.
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
// A strided 1x1 convolution slices first and then runs with stride 1: the same result, and torch 2.11 crashes on the
// fp32 channels_last weight gradient of the strided form (reference/platform.md 2.0).
class Conv2dImpl : public torch::nn::Module {
 public:
  explicit Conv2dImpl(const ConvOptions& options);
  torch::Tensor forward(const torch::Tensor& x);
  torch::Tensor weight, bias;  // [out, in / groups, k, k], [out] or undefined
  const ConvOptions options;
};
TORCH_MODULE(Conv2d);

// Sums small tensors over ranks for batch_norm: sync. models/ own this interface and see no communicator; the trainer
// implements it over one. Called in forward and backward, in the same order on all ranks.
class StatisticsReducer {
 public:
  virtual ~StatisticsReducer() = default;
  // In place; blocks (device tensors: the current stream waits).
  virtual void sum(torch::Tensor& statistics) = 0;
};

// Batch normalisation over all dimensions but 1, for [B, C] and [B, C, H, W]. Names, eps and momentum as PyTorch's.
// Training: statistics of this rank's rows, or of all ranks' after set_reducer(); running statistics are deferred (core/deferred.h)
// and, over k micro-batches and W ranks, are the average over ranks of k sequential PyTorch updates.
class BatchNormImpl : public torch::nn::Module, public Deferred {
 public:
  explicit BatchNormImpl(int64_t channels, double eps = 1e-5, double momentum = 0.1, bool affine = true);
  torch::Tensor forward(const torch::Tensor& x);
  // nullptr: local statistics.
  void set_reducer(std::shared_ptr<StatisticsReducer> reducer) { reducer_ = std::move(reducer); }
  void collect(std::vector<torch::Tensor>& averaged) override;
  void commit() override;
  void discard() override;

  torch::Tensor weight, bias, running_mean, running_var, num_batches_tracked;

 private:
  void keep(const torch::Tensor& mean, const torch::Tensor& unbiased_variance);
  double eps_, momentum_;
  std::shared_ptr<StatisticsReducer> reducer_;
  int64_t pending_batches_ = 0;             // k
  torch::Tensor pending_mean_, pending_var_;  // Σ m (1 - m)^(k - i) statistic_i
};
TORCH_MODULE(BatchNorm);

// PReLU with one slope a channel, initialised to 0.25. Parameter `weight` [C].
class PReluImpl : public torch::nn::Module {
 public:
  explicit PReluImpl(int64_t channels);
  torch::Tensor forward(const torch::Tensor& x);
  torch::Tensor weight;
};
TORCH_MODULE(PRelu);

// Gives every BatchNorm below `module` the reducer (batch_norm: sync).
void set_batch_norm_reducer(torch::nn::Module& module, std::shared_ptr<StatisticsReducer> reducer);

}  // namespace facetrain
