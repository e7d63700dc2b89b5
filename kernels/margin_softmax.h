// The element-wise passes of the margin classifier over a chunk of cosines [B, n], on plain
// pointers.
//
// A pass treats the negatives only: the target's column is left out of the sums, and in the
// gradient it holds what the caller computed for it. Each version has the same parameters; the CPU
// one does rows [row_begin, row_end), so that the caller chooses the threads and a row's bits do
// not depend on them. Formulas: kernels/margin_rules.h.
#pragma once

#include <cstdint>

#include "kernels/bfloat16.h"
#include "kernels/margin_rules.h"

namespace facetrain::kernels {

// A chunk: `columns` classes of all that this rank holds, from class `first` of its list; [rows,
// columns], contiguous.
struct Chunk {
  int64_t rows = 0, columns = 0, first = 0;
};

// Vectors over the rows. Null stands for zeros, except scale (ones).
template <class T>
struct RowVectors {
  const T* scale = nullptr;
  const T* shift = nullptr;
  const T* p0 = nullptr;
  const T* p1 = nullptr;
  const int64_t* target = nullptr;  // place of the target in this rank's list of classes, or -1
};

// What the first pass adds up over the negatives, carried from chunk to chunk; null: not wanted.
// Starts as (-inf, 0, 0, 0, 0). `term` is exp(l - maximum), softplus(l) or g l; `weight` is the
// derivative of the row's loss by l (for kSoftmax: the term).
template <class T>
struct RowSums {
  T* maximum = nullptr;     // largest logit (kSoftmax only)
  T* sum = nullptr;         // Σ term
  T* weight_sum = nullptr;  // Σ weight, for the gradient of the shift
  T* value_sum = nullptr;   // Σ weight v, for the gradient of the scale
  T* plain_sum = nullptr;   // Σ v, for label smoothing
};

// What the second pass needs of each row.
template <class T>
struct RowGradients {
  const T* coefficient = nullptr;  // multiplies weight dv/dc
  const T* log_sum = nullptr;  // log Σ exp(l) of the whole row, target included (kSoftmax only)
  const T* target_gradient = nullptr;  // goes into the target's column
  const T* constant = nullptr;         // taken from coefficient weight (label smoothing); null: 0
};

// First pass. T: float, double.
template <class T>
void add_row_sums_cpu(const T* cosines, Chunk chunk, const RowRule& rule, RowVectors<T> rows,
                      RowSums<T> sums, int64_t row_begin, int64_t row_end);

// Second pass: out[b, j] = (coefficient weight - constant) dv/dc. (T, Out): (float, float), (float,
// Bfloat16), (double, double); `out` may be `cosines`.
template <class T, class Out>
void row_gradients_cpu(const T* cosines, Out* out, Chunk chunk, const RowRule& rule,
                       RowVectors<T> rows, RowGradients<T> gradients, int64_t row_begin,
                       int64_t row_end);

// Pre-pass: adds Σ c and the count of the negatives with c > threshold.
template <class T>
void add_selected_cpu(const T* cosines, Chunk chunk, const T* threshold, const int64_t* target,
                      T* sum, T* count, int64_t row_begin, int64_t row_end);

// CUDA versions; `stream` is a cudaStream_t. One block a row; sums within a block go in a fixed
// order.
template <class T>
void add_row_sums_cuda(const T* cosines, Chunk chunk, const RowRule& rule, RowVectors<T> rows,
                       RowSums<T> sums, void* stream);
template <class T, class Out>
void row_gradients_cuda(const T* cosines, Out* out, Chunk chunk, const RowRule& rule,
                        RowVectors<T> rows, RowGradients<T> gradients, void* stream);
template <class T>
void add_selected_cuda(const T* cosines, Chunk chunk, const T* threshold, const int64_t* target,
                       T* sum, T* count, void* stream);

}  // namespace facetrain::kernels
