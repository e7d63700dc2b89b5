#include "kernels/unit_rows.h"

#include <algorithm>
#include <cmath>

#include "kernels/lanes.h"

namespace facetrain::kernels {
namespace {

// Σ a b by four accumulators of lanes: enough to hide the latency of the multiply-add.
template <class T>
T dot(const T* a, const T* b, int64_t dim) {
  Lanes<T> sums[4] = {};
  int64_t j = 0;
  for (; j + 4 * kLanes<T> <= dim; j += 4 * kLanes<T>)
    for (int k = 0; k < 4; ++k)
      sums[k] += load(a + j + k * kLanes<T>) * load(b + j + k * kLanes<T>);
  for (; j + kLanes<T> <= dim; j += kLanes<T>) sums[0] += load(a + j) * load(b + j);
  if (j < dim) sums[1] += load_some(a + j, dim - j) * load_some(b + j, dim - j);
  return sum_of((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

}  // namespace

template <class T, class Out>
void unit_rows_cpu(const T* weight, RowChoice choice, int64_t dim, bool normalise, Out* unit,
                   T* inverse, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const T* row = weight + choice(i) * dim;
    T factor = 1;
    if (normalise) inverse[i] = factor = T(1) / std::max(std::sqrt(dot(row, row, dim)), T(1e-12));
    Out* to = unit + i * dim;
    int64_t j = 0;
    for (; j + kLanes<T> <= dim; j += kLanes<T>) put(to + j, factor * load(row + j), kLanes<T>);
    if (j < dim) put(to + j, factor * load_some(row + j, dim - j), dim - j);
  }
}

template <class T>
void project_rows_cpu(const T* weight, RowChoice choice, int64_t dim, const T* inverse,
                      const T* gradient, T* out, bool accumulate, int64_t begin, int64_t end) {
  for (int64_t i = begin; i < end; ++i) {
    const T* row = weight + choice(i) * dim;
    const T* g = gradient + i * dim;
    T* to = out + i * dim;
    const T along = dot(row, g, dim) * inverse[i] * inverse[i];
    for (int64_t j = 0; j < dim; ++j) {
      const T projected = (g[j] - along * row[j]) * inverse[i];
      to[j] = accumulate ? to[j] + projected : projected;
    }
  }
}

template void unit_rows_cpu(const float*, RowChoice, int64_t, bool, float*, float*, int64_t,
                            int64_t);
template void unit_rows_cpu(const float*, RowChoice, int64_t, bool, Bfloat16*, float*, int64_t,
                            int64_t);
template void unit_rows_cpu(const double*, RowChoice, int64_t, bool, double*, double*, int64_t,
                            int64_t);
template void project_rows_cpu(const float*, RowChoice, int64_t, const float*, const float*, float*,
                               bool, int64_t, int64_t);
template void project_rows_cpu(const double*, RowChoice, int64_t, const double*, const double*,
                               double*, bool, int64_t, int64_t);

}  // namespace facetrain::kernels
