// What losses and the trainer need beyond the bare collectives; and the gradient convention, stated
// here once.
//
// **Gradient convention.** A loss term is (sum, count) over its units. Its value is Σ sum / Σ count
// over all ranks and micro-batches, and a rank back-propagates size() * sum / Σ count, because the
// GradReducer *averages* over ranks. Local batches may therefore differ. What is computed from
// gathered rows obeys it too: the sum over ranks of their gradients of a row, which the backward of
// `gather_rows` makes, holds the factor size() already. The class-sharded weight gradient is exact
// and is neither scaled nor averaged.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "comm/communicator.h"

namespace facetrain {

// Rows [begin, end) of `total` that belong to `rank` of `size`: the one rule for batches and for
// sharded rows.
struct Slice {
  int64_t begin, end;
  int64_t size() const { return end - begin; }
};
constexpr Slice slice_of(int64_t total, int rank, int size) {
  return {total * rank / size, total * (rank + 1) / size};
}

// **Collective.** The ranks' row counts; `local` may differ between ranks. [size()]
std::vector<int64_t> gather_counts(int64_t local, Communicator& comm);

// **Collective.** Rows of all ranks in rank order, [Σ rows, ...]; ranks may hold different numbers
// of rows (`counts`, as gather_counts gives). Differentiable: backward is one reduce-scatter.
at::Tensor gather_rows(const at::Tensor& local, const std::vector<int64_t>& counts,
                       Communicator& comm);

// The same without autograd, for labels and positions of any type.
at::Tensor gather_rows_detached(const at::Tensor& local, const std::vector<int64_t>& counts,
                                Communicator& comm);

// **Collective.** Inverse: sums [Σ rows, ...] over ranks and returns this rank's rows.
at::Tensor scatter_rows_sum(const at::Tensor& all, const std::vector<int64_t>& counts,
                            Communicator& comm);

}  // namespace facetrain
