// From the sums over a row's negatives and the margin's answer to the row's loss and its
// derivatives.
//
// Everything is [B], the same on all ranks. The target is kept out of the sums and added here, so
// that the loss of a well-separated row loses no digits to cancellation.
#pragma once

#include "kernels/ops.h"
#include "losses/margin.h"

namespace facetrain {

// How the classifier's options change the cross-entropy of a row (kSoftmax only). With S the step's
// classes, Z = Σ exp(l) over S and the pair negatives, and p = exp(l_y) / Z:
//
//   loss = (1 - p)^γ H,   H = log Z - (1 - ε) l_y - ε / |S| Σ_S l_j
//
// ε: label smoothing (Szegedy 2016, arXiv:1512.00567, section 7). It spreads evenly over the
// classes of the step, the own one included (all C at sample_rate 1: torch's rule), not over pair
// negatives. The own class counts with its margin, the others as the margin leaves them. γ: focal
// weight of each row (Lin 2017, arXiv:1708.02002, eq. 4), differentiated through p.
struct CrossEntropy {
  double label_smoothing = 0, focal_gamma = 0;
  int64_t classes = 0;  // |S|, over all ranks
};

struct RowLoss {
  at::Tensor loss;         // without the margin's penalty
  at::Tensor log_sum;      // log Z: log Σ exp(l) of the whole row (kSoftmax; else undefined)
  at::Tensor coefficient;  // dloss / dv of a negative, over the term's weight
  at::Tensor constant;     // taken from that for classes (label smoothing), or undefined
  at::Tensor dphi;         // dloss / dφ
  at::Tensor dscale;       // dloss / dscale; undefined unless sums.value_sum is there
  at::Tensor dshift;       // dloss / dshift; undefined unless sums.weight_sum is there
};

// Joins sums over different classes (of parts, then of ranks), each [W, B]: the largest maximum,
// and sums brought to it.
RowSums join_row_sums(const RowSums& of_parts, RowReduction reduction);

// log Σ exp(l) over the negatives; -inf where there are none.
at::Tensor negative_log_sum(const RowSums& sums);

// `shift` [B] or undefined. `sums.plain_sum` is wanted where labels are smoothed.
RowLoss row_loss(const MarginRule& rule, const MarginOutput& margin, const RowSums& sums,
                 const at::Tensor& shift, const CrossEntropy& options);

}  // namespace facetrain
