// Agreement with a teacher's distribution over prototypes: DINO (Caron et al. 2021,
// arXiv:2104.14294, equations 1 ... 4), SwAV's swapped prediction, iBOT's patch loss.
#pragma once

#include <ATen/core/Tensor.h>

#include "comm/communicator.h"

namespace facetrain {

// -Σ target log softmax(logits / temperature) over the last dimension; `target` is a constant.
// fp32, or fp64 for fp64. [...]
at::Tensor soft_cross_entropy(const at::Tensor& logits, const at::Tensor& target,
                              double temperature);

// softmax((logits - centre) / temperature), without gradient. logits [..., K], centre [K].
at::Tensor centred_softmax(const at::Tensor& logits, const at::Tensor& centre, double temperature);

// **Collective.** c <- momentum c + (1 - momentum) mean of `logits` [n, K] over the rows of all
// ranks (n may differ). In place, fp32 or fp64 as the centre [K] is.
void update_centre(at::Tensor& centre, const at::Tensor& logits, double momentum,
                   Communicator& comm);

}  // namespace facetrain
