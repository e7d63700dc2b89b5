// Everything random of the classifier, as functions of keys: the initial rows and the classes of a
// step.
//
// Draws are per global class id, so neither the matrix nor the sample depends on the world size.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "comm/collectives.h"

namespace facetrain {

// Rows of the classes [begin, end), fp32 [K (end - begin), D], class-major: N(0, deviation) by Box
// and Muller from (seed, class, sub-centre, column).
at::Tensor draw_class_rows(Slice classes, int64_t rows_per_class, int64_t dim, double deviation,
                           uint64_t seed);

// The classes of `classes` that take part in a step: those in `positives` (int64, any order,
// repeats allowed, others' classes allowed) and each class j with u(seed, step, j) < rate. Local
// ids (j - begin), int64, ascending, on the CPU.
at::Tensor draw_step_classes(Slice classes, const at::Tensor& positives, double rate, uint64_t seed,
                             int64_t step);

}  // namespace facetrain
