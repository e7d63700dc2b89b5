// The torch face of the kernels: shapes are checked, the tensors' device picks the version.
//
// T is the accumulation type (fp32 or fp64) of all vectors and cosines; bf16 appears only as an
// input of GEMMs.
#pragma once

#include <ATen/core/Tensor.h>

#include "kernels/margin_rules.h"
#include "kernels/unit_rows.h"

namespace facetrain {

// Vectors [B] of T over the rows of a chunk; undefined: zeros (scale: ones). `target` [B] int64 is
// the place of the row's target in this rank's list of classes, or -1.
struct RowVectors {
  at::Tensor scale, shift, p0, p1, target;
};

// Sums over the negatives, carried from chunk to chunk; see kernels::RowSums. [B] of T.
struct RowSums {
  at::Tensor maximum, sum, weight_sum, value_sum, plain_sum;
  static RowSums start(int64_t rows, const at::TensorOptions& options);
};

// Adds a chunk of cosines [B, n], contiguous; its first column is class `first` of the list.
void add_row_sums(const at::Tensor& cosines, int64_t first, const kernels::RowRule& rule,
                  const RowVectors& rows, RowSums& sums);

// out[b, j] = coefficient[b] dterm/dcos - constant[b] dv/dcos, and target_gradient[b] in the
// target's column; `constant` may be undefined. `out` [B, n] is `cosines` itself, of the same type,
// or bf16 for fp32 cosines.
void row_gradients(const at::Tensor& cosines, const at::Tensor& out, int64_t first,
                   const kernels::RowRule& rule, const RowVectors& rows,
                   const at::Tensor& coefficient, const at::Tensor& log_sum,
                   const at::Tensor& target_gradient, const at::Tensor& constant = {});

// Adds Σ c and the count of the negatives above threshold [B] to sum [B] and count [B].
void add_selected(const at::Tensor& cosines, int64_t first, const at::Tensor& threshold,
                  const at::Tensor& target, const at::Tensor& sum, const at::Tensor& count);

// Which rows of a class matrix a chunk is: see kernels::RowChoice. `ids` int64 or undefined.
struct RowRange {
  at::Tensor ids;
  int64_t first = 0, group = 1;
};

// unit [n, D] (T or bf16) and inverse [n] from rows of weight [., D]. Without `normalise` a copy;
// inverse undefined then.
void unit_rows(const at::Tensor& weight, const RowRange& range, bool normalise,
               const at::Tensor& unit, const at::Tensor& inverse);

// out [n, D] = or += the gradient by the rows, from that by the unit rows, gradient [n, D].
void project_rows(const at::Tensor& weight, const RowRange& range, const at::Tensor& inverse,
                  const at::Tensor& gradient, const at::Tensor& out, bool accumulate);

// out = or += a b, [M, K] x [K, N]; either may be a transposed view. a and b are of out's type, or
// bf16 for an fp32 out: the products of bf16 are then summed in fp32.
void matmul(const at::Tensor& a, const at::Tensor& b, const at::Tensor& out, bool accumulate);

// Whether bf16 GEMMs are faster than fp32 ones on this device: CUDA, and CPUs with AMX (there 2.5
// to 3 times; with AVX512-BF16 alone MKL's are half as fast as its fp32 ones, measured 75 against
// 150 GFLOP/s a core).
bool has_fast_bf16(const at::Device& device);

}  // namespace facetrain
