// A softmax over classes whose rows are spread over ranks, never materialised as [B, C].
//
// Embeddings are gathered once; each rank passes over its classes in chunks twice: first for the row statistics (largest
// logit, Σ exp), then, when gradients are asked for, for the gradients, recomputing the logits of each chunk. Peak memory does
// not depend on B x C. The result is the same at any number of ranks. Shards are slices of *classes* (K rows each, class-major);
// a label may be absent from a shard. Sources: reference/recognition.md section 1, An et al. 2022 (arXiv:2203.15565).
#pragma once

#include <torch/torch.h>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/collectives.h"
#include "comm/communicator.h"
#include "comm/sharded.h"
#include "losses/margin.h"

namespace facetrain {

struct ClassifierOptions {
  int64_t classes = 0;           // 0: the data's identities
  Scheduled sample_rate = 1.0;   // ρ: share of the negative classes that a step sees
  std::string rows = "sparse";   // sparse | dense: whether momentum and decay also move the rows outside the step's sample
  double init_deviation = 0.01;  // rows start as N(0, deviation), drawn from (seed, class)
  void fields(auto& f) {
    f("classes", classes, at_least(0), "identities; 0: as many as the data has");
    f("sample_rate", sample_rate, range(0, 1), "share of negative classes in a step; 0: positives only");
    f("rows", rows, one_of("sparse", "dense"), "unsampled rows: sparse leaves them alone, dense decays them and moves them by their momentum");
    f("init_deviation", init_deviation, range(1e-6, 10), "standard deviation of the initial rows");
  }
};

class ShardedClassifier : public torch::nn::Module, public ShardOwner {
 public:
  ShardedClassifier(const ClassifierOptions& options, int64_t dim, std::shared_ptr<Margin> margin, Communicator& comm,
                    uint64_t seed);

  // **Collective.** Before the first forward of an optimizer step, with the labels of all its micro-batches (this rank's):
  // checks them (a label < 0 or >= classes is one error on all ranks), and draws the step's classes: class j is in if it is
  // a positive of the global batch or u(seed, step, j) < ρ(step).
  void begin_step(std::span<const torch::Tensor> labels, int64_t step, int64_t total_steps, double steps_per_epoch);

  // **Collective.** Loss of each of this rank's rows [b]; embeddings [b, D], labels [b] int64, positions [b] int64.
  // Differentiable; obeys the gradient convention of comm/collectives.h. Non-finite features give non-finite losses.
  torch::Tensor forward(const torch::Tensor& embeddings, const torch::Tensor& labels, const torch::Tensor& positions);

  // After forward: this micro-batch's mean target cosine over all ranks and the mean feature norm, detached (metrics).
  torch::Tensor target_cosine() const { return target_cosine_; }
  torch::Tensor feature_norm() const { return feature_norm_; }

  std::vector<ShardedParameter> sharded() const override;
  torch::Tensor touched_rows(const std::string& name) const override;
  torch::Tensor row_gradient(const std::string& name) const override;
  bool update_untouched_rows(const std::string& name) const override;
  void zero_grad_rows() override;

  int64_t classes() const { return options_.classes; }
  int64_t sampled_classes() const;  // of this rank, in this step
  Margin& margin() { return *margin_; }

  torch::Tensor weight;  // [K (end - begin), D], fp32 (fp64 under trainer.precision fp64)
  torch::Tensor bias;    // [end - begin] or undefined (softmax)

 private:
  friend struct ClassifierPass;
  ClassifierOptions options_;
  int64_t dim_;
  std::shared_ptr<Margin> margin_;
  Communicator& comm_;
  uint64_t seed_;
  Slice classes_here_;
  torch::Tensor sampled_;       // local class ids of this step, ascending; undefined: all
  torch::Tensor row_gradient_;  // [sampled rows, D]
  torch::Tensor bias_gradient_;
  torch::Tensor target_cosine_, feature_norm_;
  int64_t step_ = 0, total_steps_ = 0;
  double steps_per_epoch_ = 1;
};

}  // namespace facetrain
