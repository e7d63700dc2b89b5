// The rows of a classifier that is not learned: vertices of a regular simplex.
//
// All pairs of classes have the cosine -1 / (C - 1), the least that C vectors can have in common;
// features of models trained against the same vertices stay comparable. Pernici et al. 2021,
// arXiv:2103.15632; Biondi et al. 2024, arXiv:2405.02581.
#pragma once

#include <ATen/core/Tensor.h>

#include "comm/collectives.h"

namespace facetrain {

// Unit rows of `classes` out of `total` >= 2, fp32 [classes, dim], a function of the class alone:
// with n = total - 1, e_j for j < n and (1 - √(1 + n)) / n in all n places for j = n, less their
// mean, normalised. dim >= n; what is beyond the first n dimensions is zero.
at::Tensor simplex_rows(Slice classes, int64_t total, int64_t dim);

}  // namespace facetrain
