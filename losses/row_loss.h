// From the sums over a row's negatives and the margin's answer to the row's loss and its
// derivatives.
//
// Everything is [B], the same on all ranks. The target is kept out of the sums and added here, so
// that the loss of a well-separated row loses no digits to cancellation.
#pragma once

#include "kernels/ops.h"
#include "losses/margin.h"

namespace facetrain {

struct RowLoss {
  at::Tensor loss;         // without the margin's penalty
  at::Tensor log_sum;      // log Σ exp(l) of the whole row (kSoftmax; else undefined)
  at::Tensor coefficient;  // dloss / dv of a negative, over the term's weight
  at::Tensor dphi;         // dloss / dφ
  at::Tensor dscale;       // dloss / dscale; undefined unless sums.value_sum is there
  at::Tensor dshift;       // dloss / dshift; undefined unless sums.weight_sum is there
};

// Joins sums over different classes (of parts, then of ranks), each [W, B]: the largest maximum,
// and sums brought to it.
RowSums join_row_sums(const RowSums& of_parts, RowReduction reduction);

// log Σ exp(l) over the negatives; -inf where there are none.
at::Tensor negative_log_sum(const RowSums& sums);

// `shift` [B] or undefined.
RowLoss row_loss(const MarginRule& rule, const MarginOutput& margin, const RowSums& sums,
                 const at::Tensor& shift);

}  // namespace facetrain
