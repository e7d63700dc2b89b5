// In-batch negative pairs as further negatives of every row. UNPG: Jung et al. 2022,
// arXiv:2203.11593.
//
// The cosines of all pairs i < j of the (micro-)batch with different identities, less the outliers
// of a box-and-whisker filter, stand in the soft-max of each row beside its classes, times the
// row's scale. No margin, negative rule, class filter or label smoothing touches them. Gradients go
// to the embeddings only. Every rank computes the same from the gathered rows: no communication.
// Memory: 18 B^2 bytes in fp32 while the pairs are sorted (1.2 GB at B = 8192), a third of it kept
// for the backward; never [B, C]. On a device the host waits for the number of pairs in
// each forward.
#pragma once

#include "comm/collectives.h"
#include "kernels/ops.h"

namespace facetrain {

// Which of `values` [n] lie in [q1 - whisker (q3 - q1), q3 + whisker (q3 - q1)], ends included;
// bool [n]. The quartiles interpolate linearly between the sorted values, at 0.25 (n - 1) and
// 0.75 (n - 1), as numpy.quantile and torch.quantile do (the authors' code takes the one below).
at::Tensor inside_whiskers(const at::Tensor& values, double whisker);

class PairNegatives {
 public:
  // Unit features [B, D] in the sums' type, labels [B].
  PairNegatives(const at::Tensor& features, const at::Tensor& labels, double whisker);

  int64_t size() const { return cosine_.size(0); }

  // The soft-max sums with the pairs added; `scale` [B]. Rows of equal scale share the work: a
  // margin with one scale costs one pass over the pairs, one whose scale follows the norm B passes.
  RowSums add_to(const RowSums& sums, const at::Tensor& scale);

  // After add_to: the gradient of the features of rows `rows`, [rows, D], where the loss's
  // derivative by a pair's cosine is coefficient exp(logit - log_sum), summed over all rows b; both
  // [B].
  at::Tensor gradient(const at::Tensor& coefficient, const at::Tensor& log_sum, Slice rows) const;

 private:
  at::Tensor features_;  // [B, D]
  at::Tensor cosine_;    // [M] of the pairs kept
  at::Tensor place_;     // [M] i B + j
  at::Tensor scales_;    // [U] different scales, ascending
  at::Tensor which_;     // [B] place of a row's scale among them
  at::Tensor maximum_;   // [U] largest logit
};

}  // namespace facetrain
