#include <cmath>

#include "kernels/unit_rows.h"

namespace facetrain::kernels {
namespace {

constexpr int kWarp = 32, kWarps = 8;

template <class T>
__device__ T sum_warp(T value) {
  for (int apart = kWarp / 2; apart > 0; apart /= 2)
    value += __shfl_xor_sync(0xffffffffu, value, apart);
  return value;
}

// The row of this warp, or -1.
__device__ int64_t row_of_warp(int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kWarps + threadIdx.x / kWarp;
  return i < count ? i : -1;
}

template <class T, class Out>
__global__ void unit_rows_kernel(const T* weight, RowChoice choice, int64_t dim, bool normalise,
                                 Out* unit, T* inverse, int64_t count) {
  const int64_t i = row_of_warp(count);
  if (i < 0) return;
  const int lane = threadIdx.x % kWarp;
  const T* row = weight + choice(i) * dim;
  T factor = 1;
  if (normalise) {
    T squares = 0;
    for (int64_t j = lane; j < dim; j += kWarp) squares += row[j] * row[j];
    const T norm = sqrt(sum_warp(squares));
    factor = T(1) / (norm < T(1e-12) ? T(1e-12) : norm);
    if (lane == 0) inverse[i] = factor;
  }
  for (int64_t j = lane; j < dim; j += kWarp) put(unit + i * dim + j, factor * row[j]);
}

template <class T>
__global__ void project_rows_kernel(const T* weight, RowChoice choice, int64_t dim,
                                    const T* inverse, const T* gradient, T* out, bool accumulate,
                                    int64_t count) {
  const int64_t i = row_of_warp(count);
  if (i < 0) return;
  const int lane = threadIdx.x % kWarp;
  const T* row = weight + choice(i) * dim;
  const T* g = gradient + i * dim;
  T dot = 0;
  for (int64_t j = lane; j < dim; j += kWarp) dot += row[j] * g[j];
  const T along = sum_warp(dot) * inverse[i] * inverse[i];
  for (int64_t j = lane; j < dim; j += kWarp) {
    const T projected = (g[j] - along * row[j]) * inverse[i];
    T* to = out + i * dim + j;
    *to = accumulate ? *to + projected : projected;
  }
}

unsigned blocks_for(int64_t rows) { return static_cast<unsigned>((rows + kWarps - 1) / kWarps); }

}  // namespace

template <class T, class Out>
void unit_rows_cuda(const T* weight, RowChoice choice, int64_t dim, bool normalise, Out* unit,
                    T* inverse, int64_t count, void* stream) {
  if (count == 0) return;
  unit_rows_kernel<<<blocks_for(count), kWarp * kWarps, 0, static_cast<cudaStream_t>(stream)>>>(
      weight, choice, dim, normalise, unit, inverse, count);
}

template <class T>
void project_rows_cuda(const T* weight, RowChoice choice, int64_t dim, const T* inverse,
                       const T* gradient, T* out, bool accumulate, int64_t count, void* stream) {
  if (count == 0) return;
  project_rows_kernel<<<blocks_for(count), kWarp * kWarps, 0, static_cast<cudaStream_t>(stream)>>>(
      weight, choice, dim, inverse, gradient, out, accumulate, count);
}

template void unit_rows_cuda(const float*, RowChoice, int64_t, bool, float*, float*, int64_t,
                             void*);
template void unit_rows_cuda(const float*, RowChoice, int64_t, bool, Bfloat16*, float*, int64_t,
                             void*);
template void unit_rows_cuda(const double*, RowChoice, int64_t, bool, double*, double*, int64_t,
                             void*);
template void project_rows_cuda(const float*, RowChoice, int64_t, const float*, const float*,
                                float*, bool, int64_t, void*);
template void project_rows_cuda(const double*, RowChoice, int64_t, const double*, const double*,
                                double*, bool, int64_t, void*);

}  // namespace facetrain::kernels
