// Batch normalisation whose running statistics wait for the step's verdict, local or over all
// ranks.
#pragma once

#include <memory>
#include <vector>

#include "core/deferred.h"
#include "core/torch.h"

namespace facetrain {

// Sums small tensors over ranks for batch_norm: sync. models/ own this interface and see no
// communicator; the trainer implements it over one. Called in forward and backward, in the same
// order on all ranks.
class StatisticsReducer {
 public:
  virtual ~StatisticsReducer() = default;
  // In place, fp64 [n]; blocks (device tensors: the current stream waits). Collective.
  virtual void sum(torch::Tensor& statistics) = 0;
};

// Batch normalisation over all dimensions but 1, for [B, C] and [B, C, H, W]. Names, eps and
// momentum as PyTorch's. Training: statistics of this rank's rows, or of all ranks' after
// set_reducer(); running statistics are deferred (core/deferred.h) and, over k micro-batches and W
// ranks, are the average over ranks of k sequential PyTorch updates. Evaluation: the running
// statistics, and nothing is kept. Half-width inputs keep fp32 statistics and parameters.
class BatchNormImpl : public torch::nn::Module, public Deferred {
 public:
  explicit BatchNormImpl(int64_t channels, double eps = 1e-5, double momentum = 0.1,
                         bool affine = true);
  // Throws when training sees one value a channel: its variance is unknown.
  torch::Tensor forward(const torch::Tensor& x);
  // nullptr: local statistics.
  void set_reducer(std::shared_ptr<StatisticsReducer> reducer) { reducer_ = std::move(reducer); }
  void collect(std::vector<torch::Tensor>& averaged) override;
  void commit() override;
  void discard() override;

  torch::Tensor weight, bias;  // [C], or undefined when not affine
  torch::Tensor running_mean, running_var, num_batches_tracked;

 private:
  torch::Tensor local_forward(const torch::Tensor& x);
  torch::Tensor synchronised_forward(const torch::Tensor& x);
  void keep(const torch::Tensor& statistics);
  double eps_, momentum_;
  std::shared_ptr<StatisticsReducer> reducer_;
  int64_t pending_batches_ = 0;  // k
  torch::Tensor pending_;  // [2, C]: Σ m (1 - m)^(k - i) statistic_i of mean and unbiased variance
};
TORCH_MODULE(BatchNorm);

// Gives every BatchNorm below `module` the reducer (batch_norm: sync).
void set_batch_norm_reducer(torch::nn::Module& module, std::shared_ptr<StatisticsReducer> reducer);

}  // namespace facetrain
