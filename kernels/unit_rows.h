// Rows of the class matrix made unit vectors of the GEMM's type, and gradients taken back through
// that normalisation.
//
// u = w / max(|w|, 1e-12), the norm in T. The gradient by w is (g - u (u·g)) / max(|w|, 1e-12).
#pragma once

#include <cstdint>

#include "kernels/margin_softmax.h"

namespace facetrain::kernels {

// Which rows of `weight` [., dim] are meant: row i of the call is ids[first + i], or first + i
// where ids is null. With K rows a class, ids name classes and row i is ids[(first + i) / K] * K +
// (first + i) % K.
struct RowChoice {
  const int64_t* ids = nullptr;
  int64_t first = 0, group = 1;
#ifdef __CUDACC__
  __host__ __device__
#endif
      int64_t
      operator()(int64_t i) const {
    const int64_t at = first + i;
    return ids ? ids[at / group] * group + at % group : at;
  }
};

// unit[i] and inverse[i] = 1 / max(|w|, 1e-12) for i in [begin, end); without `normalise` the rows
// are only copied to the type, and `inverse` may be null. (T, Out): (float, float), (float,
// Bfloat16), (double, double).
template <class T, class Out>
void unit_rows_cpu(const T* weight, RowChoice choice, int64_t dim, bool normalise, Out* unit,
                   T* inverse, int64_t begin, int64_t end);

// out[i] = or += the gradient by the row, from `gradient` [., dim] by the unit rows. T: float,
// double.
template <class T>
void project_rows_cpu(const T* weight, RowChoice choice, int64_t dim, const T* inverse,
                      const T* gradient, T* out, bool accumulate, int64_t begin, int64_t end);

// CUDA versions, for all rows [0, count); `stream` is a cudaStream_t. One warp a row.
template <class T, class Out>
void unit_rows_cuda(const T* weight, RowChoice choice, int64_t dim, bool normalise, Out* unit,
                    T* inverse, int64_t count, void* stream);
template <class T>
void project_rows_cuda(const T* weight, RowChoice choice, int64_t dim, const T* inverse,
                       const T* gradient, T* out, bool accumulate, int64_t count, void* stream);

}  // namespace facetrain::kernels
