// Soft assignments that give every prototype the same share of all rows (Cuturi 2013,
// arXiv:1306.0895; for prototypes SwAV, Caron et al. 2020, arXiv:2006.09882, section 3.1).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "comm/communicator.h"

namespace facetrain {

// **Collective**: one maximum and `rounds` sums of [S, K] numbers. scores [S, b, K]: S sets of rows
// that are solved each for itself but in the same reductions; b may differ between ranks. Returns
// [S, b, K], every row sums to 1; without gradient, in fp32, or fp64 for fp64.
//
// Rows are normalised among logarithms, so scores of any size neither overflow nor vanish; in exact
// arithmetic it is exp(scores / epsilon) scaled `rounds` times, prototypes first.
at::Tensor sinkhorn(const at::Tensor& scores, double epsilon, int64_t rounds, Communicator& comm);

}  // namespace facetrain
