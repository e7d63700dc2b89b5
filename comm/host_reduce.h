// Sums and maxima over ranks' host arrays, in rank order: the one definition of what a reduction's
// bits are.
//
// bf16 and fp16 are accumulated in fp32 and rounded once. A maximum with a NaN is NaN. Used by
// ThreadComm, by MpiComm's ordered reductions and by its MPI_Op.
#pragma once

#include <c10/core/ScalarType.h>

#include <cstdint>
#include <span>

#include "comm/communicator.h"

namespace facetrain {

// Types that collectives can reduce: fp64, fp32, bf16, fp16, int64, int32, uint8 (sums wrap).
bool is_reducible(c10::ScalarType type);

// out[i] = parts[0][i] op parts[1][i] op ..., `count` elements. `out` may be one of the parts.
void reduce_in_rank_order(c10::ScalarType type, ReduceOp op, std::span<const void* const> parts,
                          void* out, int64_t count);

}  // namespace facetrain
