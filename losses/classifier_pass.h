// One forward of the class-sharded classifier and its backward: what ShardedClassifier does for one
// micro-batch.
//
// Both walk over this rank's classes in chunks. The forward sums over the negatives; the backward
// computes the chunk's cosines again and turns them into gradients. Memory: vectors [B], a few [B,
// D], and the chunk's workspace; never [B, C]. Factors: with g the incoming gradient of the rows
// (size() times the true one, comm/collectives.h), the rows' weight is g / size(); so the class
// rows get the exact gradient, and the embeddings size() times the sum over shards.
#pragma once

#include <optional>
#include <vector>

#include "comm/collectives.h"
#include "core/torch.h"
#include "losses/class_chunks.h"
#include "losses/margin.h"
#include "losses/pair_negatives.h"
#include "losses/row_loss.h"

namespace facetrain {

// Where the gradients of the shard go: [K step_classes, D] and [step_classes] or undefined;
// assigned or added to.
struct ShardGradient {
  at::Tensor weight, bias;
  bool accumulate = false;
};

struct PassSettings {
  int64_t workspace_bytes = 0;  // bounds a chunk's buffers, a thread
  bool reduced = false;         // bf16 factors in the GEMMs for bf16 embeddings and fp32 rows
  CrossEntropy entropy = {};
  double filter_above = 0;  // a negative's cosine above it counts as 0, without gradient; 0: off
  double unpg_whisker = 0;  // pair negatives within so many interquartile ranges; 0: none
};

class ClassifierPass : public torch::CustomClassHolder {
 public:
  // `input` brings what does not depend on the rows (classes, step, ...).
  ClassifierPass(ClassShard shard, Margin& margin, Communicator& comm, MarginInput input,
                 at::Tensor shared_bias, PassSettings settings);

  // **Collective.** Losses [b] of this rank's rows; embeddings [b, D], labels and positions [b]
  // int64.
  at::Tensor forward(const at::Tensor& embeddings, const at::Tensor& labels,
                     const at::Tensor& positions);

  // **Collective.** From the gradient of the losses [b]: the embeddings' gradient [b, D], of their
  // type.
  at::Tensor backward(const at::Tensor& gradient, const ShardGradient& to);

  // After forward: the gathered rows' labels, targets and norms [B], and how many each rank has.
  const MarginInput& input() const { return input_; }
  const std::vector<int64_t>& counts() const { return counts_; }
  at::Tensor shared_bias_gradient() const {
    return shared_bias_gradient_;
  }  // after backward: [1] or undefined

 private:
  void gather(const at::Tensor& embeddings, const at::Tensor& labels, const at::Tensor& positions);
  void find_targets();
  at::Tensor target_products() const;
  bool filtered() const { return settings_.filter_above > 0; }
  void run_prepass();
  ChunkPlan plan(bool gradients) const;
  // The sums that a row's loss wants beside the maximum and Σ term.
  struct Wanted {
    bool weights = false, values = false, plain = false;
  };
  RowSums sum_own_negatives(const kernels::RowRule& rule, const RowVectors& rows,
                            Wanted wanted) const;
  RowSums sum_negatives(const kernels::RowRule& rule, const RowVectors& rows, Wanted wanted);
  at::Tensor gradient_by_features(const at::Tensor& row_weight, const ShardGradient& to);
  at::Tensor gradient_by_embeddings(const at::Tensor& by_features, const at::Tensor& by_norm) const;
  kernels::RowRule row_rule() const;

  ClassShard shard_;
  Margin& margin_;
  Communicator& comm_;
  MarginInput input_;
  MarginRule rule_;
  at::Tensor shared_bias_;
  PassSettings settings_;

  std::vector<int64_t> counts_;  // rows of each rank
  at::ScalarType embedding_type_;
  at::Tensor features_;  // [B, D] unit vectors (or the embeddings themselves), in the sums' type
  at::Tensor factors_;   // the same in the GEMMs' type
  at::Tensor owned_;     // [B] bool: the target is in this rank's list
  RowVectors rows_;
  MarginOutput margin_output_;
  RowLoss row_;
  std::optional<PairNegatives> pairs_;
  at::Tensor shared_bias_gradient_;
};

}  // namespace facetrain
