// A loss over the pairs of one batch: a rank's rows are anchors, compared with the rows of all
// ranks.
//
// Every pair loss is a mean over the anchors that have a positive (another row of their identity).
// How many those are follows from the labels, so it is known before the forward, whatever mining
// does afterwards. Losses see cosines and masks, never a communicator.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "comm/communicator.h"
#include "core/registry.h"

namespace facetrain {

// A anchors of one rank against the B rows of the global micro-batch. fp32 or fp64.
struct PairInput {
  at::Tensor cosine;  // [A, B] of unit vectors; gradients flow through it to both rows
  at::Tensor same;    // [A, B] bool: positives, other rows of the anchor's identity
  at::Tensor other;   // [A, B] bool: negatives, rows of other identities
};

class PairLoss {
 public:
  static constexpr const char* kKind = "pair loss";
  virtual ~PairLoss() = default;
  // Loss of each anchor [A], with finite gradients by the cosines whatever is tied, identical or
  // missing. Anchors without a positive are left out by the caller.
  virtual at::Tensor apply(const PairInput& input) const = 0;
};
using PairLosses = Registry<PairLoss>;

// For losses: over the entries of each row that `mask` [A, B] selects. [A]
at::Tensor masked_mean(const at::Tensor& values, const at::Tensor& mask);  // of none: 0
// Of none: -1e30, so that exp() and its derivative are 0.
at::Tensor masked_logsumexp(const at::Tensor& values, const at::Tensor& mask);

// The identities of a global micro-batch.
struct PairLabels {
  std::vector<int64_t> rows;     // of each rank
  at::Tensor identity;           // [B] int64, in rank order
  at::Tensor paired;             // [B] bool: another row has the same identity
  int64_t anchors = 0;           // paired rows of this rank
  int64_t anchors_of_ranks = 0;  // of all ranks
};
// **Collective.** From this rank's labels [b] int64 on any device. A label < 0 is one error on all
// ranks.
PairLabels gather_pair_labels(const at::Tensor& labels, Communicator& comm);

// Scalars: sums over this rank's `labels.anchors` anchors.
struct PairSums {
  at::Tensor loss;          // obeys the gradient convention of comm/collectives.h
  at::Tensor same_cosine;   // of each anchor's mean over its positives; detached
  at::Tensor other_cosine;  // ... over its negatives
};
// **Collective**, in its backward too. embeddings [b, D] of any floating type; computed in fp32,
// or fp64 for fp64. Gradients flow to the rows of all ranks. Non-finite embeddings give a
// non-finite loss.
PairSums sum_pair_loss(const PairLoss& loss, const at::Tensor& embeddings, const PairLabels& labels,
                       Communicator& comm);

}  // namespace facetrain
