#include <cfloat>
#include <cmath>

#include "kernels/margin_softmax.h"

namespace facetrain::kernels {
namespace {

constexpr int kThreads = 256;

template <class T>
__device__ T at(const T* vector, int64_t row, T fallback) {
  return vector ? vector[row] : fallback;
}

template <class T>
__device__ T lowest() {
  return -static_cast<T>(INFINITY);
}

struct Add {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return a + b;
  }
};
struct Larger {
  template <class T>
  __device__ T operator()(T a, T b) const {
    return b > a ? b : a;
  }
};

// The block's values joined in a fixed tree; every thread gets the result.
template <class T, class Join>
__device__ T join_block(T value, Join join) {
  __shared__ T shared[kThreads];
  __syncthreads();  // a former use of the array is over
  shared[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (threadIdx.x < half)
      shared[threadIdx.x] = join(shared[threadIdx.x], shared[threadIdx.x + half]);
    __syncthreads();
  }
  return shared[0];
}

// Place of the target's column within the chunk, or -1.
__device__ int64_t target_column(const int64_t* target, int64_t b, const Chunk& chunk) {
  if (!target || target[b] < 0) return -1;
  const int64_t column = target[b] - chunk.first;
  return column >= 0 && column < chunk.columns ? column : -1;
}

template <class T>
__global__ void row_sums_kernel(const T* cosines, Chunk chunk, RowRule rule, RowVectors<T> rows,
                                RowSums<T> sums) {
  const int64_t b = blockIdx.x;
  const T* row = cosines + b * chunk.columns;
  const int64_t target = target_column(rows.target, b, chunk);
  const T scale = at(rows.scale, b, T(1)), shift = at(rows.shift, b, T(0));
  const T p0 = at(rows.p0, b, T(0)), p1 = at(rows.p1, b, T(0));
  const bool softmax = rule.reduction == RowReduction::kSoftmax;
  T maximum = lowest<T>();
  if (softmax) {
    for (int64_t j = threadIdx.x; j < chunk.columns; j += kThreads) {
      if (j == target) continue;
      const T l = scale * change_negative(rule, row[j], p0, p1).value + shift;
      maximum = l > maximum ? l : maximum;
    }
    maximum = Larger()(join_block(maximum, Larger()), sums.maximum[b]);
    if (chunk.columns <= (target >= 0 ? 1 : 0))
      return;  // no negatives: the same for all threads of the block
  }
  T sum = 0, weight = 0, value = 0, plain = 0;
  for (int64_t j = threadIdx.x; j < chunk.columns; j += kThreads) {
    if (j == target) continue;
    const T v = change_negative(rule, row[j], p0, p1).value;
    const T l = scale * v + shift;
    T w;
    if (softmax) {
      w = exp_of(l - maximum);
      sum += w;
    } else if (rule.reduction == RowReduction::kGatedSum) {
      w = gate_of(rule, row[j]);
      sum += w * l;
    } else {
      w = sigmoid_of(l);
      sum += softplus_of(l);
    }
    weight += w;
    value += w * v;
    plain += v;
  }
  sum = join_block(sum, Add());
  weight = join_block(weight, Add());
  value = join_block(value, Add());
  if (sums.plain_sum) plain = join_block(plain, Add());  // the same for all threads
  if (threadIdx.x != 0) return;
  T fade = 1;
  if (softmax) {
    const T before = sums.maximum[b];
    fade = before == maximum ? T(1) : exp_of(before - maximum);
    sums.maximum[b] = maximum;
  }
  sums.sum[b] = sums.sum[b] * fade + sum;
  if (sums.weight_sum) sums.weight_sum[b] = sums.weight_sum[b] * fade + weight;
  if (sums.value_sum) sums.value_sum[b] = sums.value_sum[b] * fade + value;
  if (sums.plain_sum) sums.plain_sum[b] += plain;
}

template <class T, class Out>
__global__ void row_gradients_kernel(const T* cosines, Out* out, Chunk chunk, RowRule rule,
                                     RowVectors<T> rows, RowGradients<T> gradients) {
  const int64_t b = blockIdx.y;
  const int64_t target = target_column(rows.target, b, chunk);
  const T scale = at(rows.scale, b, T(1)), shift = at(rows.shift, b, T(0));
  const T p0 = at(rows.p0, b, T(0)), p1 = at(rows.p1, b, T(0));
  const T coefficient = gradients.coefficient[b], log_sum = at(gradients.log_sum, b, T(0));
  const T constant = at(gradients.constant, b, T(0));
  const T* row = cosines + b * chunk.columns;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t j = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; j < chunk.columns;
       j += step) {
    T result;
    if (j == target) {
      result = gradients.target_gradient[b];
    } else {
      const T c = row[j];
      const Changed<T> v = change_negative(rule, c, p0, p1);
      const T l = scale * v.value + shift;
      const T w = rule.reduction == RowReduction::kSoftmax    ? exp_of(l - log_sum)
                  : rule.reduction == RowReduction::kGatedSum ? gate_of(rule, c)
                                                              : sigmoid_of(l);
      result = (coefficient * w - constant) * v.slope;
    }
    put(out + b * chunk.columns + j, result);
  }
}

template <class T>
__global__ void selected_kernel(const T* cosines, Chunk chunk, const T* threshold,
                                const int64_t* target, T* sum, T* count) {
  const int64_t b = blockIdx.x;
  const int64_t own = target_column(target, b, chunk);
  T total = 0, number = 0;
  for (int64_t j = threadIdx.x; j < chunk.columns; j += kThreads) {
    const T c = cosines[b * chunk.columns + j];
    if (j == own || !(c > threshold[b])) continue;
    total += c;
    number += 1;
  }
  total = join_block(total, Add());
  number = join_block(number, Add());
  if (threadIdx.x != 0) return;
  sum[b] += total;
  count[b] += number;
}

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }

}  // namespace

template <class T>
void add_row_sums_cuda(const T* cosines, Chunk chunk, const RowRule& rule, RowVectors<T> rows,
                       RowSums<T> sums, void* stream) {
  if (chunk.rows == 0) return;
  row_sums_kernel<<<static_cast<unsigned>(chunk.rows), kThreads, 0, as_stream(stream)>>>(
      cosines, chunk, rule, rows, sums);
}

template <class T, class Out>
void row_gradients_cuda(const T* cosines, Out* out, Chunk chunk, const RowRule& rule,
                        RowVectors<T> rows, RowGradients<T> gradients, void* stream) {
  if (chunk.rows == 0 || chunk.columns == 0) return;
  // At most 65,535 rows a launch (grid y); four columns a thread.
  const auto across = static_cast<unsigned>((chunk.columns + 4 * kThreads - 1) / (4 * kThreads));
  constexpr int64_t kRows = 65535;
  for (int64_t first = 0; first < chunk.rows; first += kRows) {
    const Chunk part{chunk.rows - first < kRows ? chunk.rows - first : kRows, chunk.columns,
                     chunk.first};
    const auto from = [first](auto* vector) { return vector ? vector + first : vector; };
    const RowVectors<T> some{from(rows.scale), from(rows.shift), from(rows.p0), from(rows.p1),
                             from(rows.target)};
    const RowGradients<T> grads{from(gradients.coefficient), from(gradients.log_sum),
                                from(gradients.target_gradient), from(gradients.constant)};
    row_gradients_kernel<<<dim3(across, static_cast<unsigned>(part.rows)), kThreads, 0,
                           as_stream(stream)>>>(
        cosines + first * chunk.columns, out + first * chunk.columns, part, rule, some, grads);
  }
}

template <class T>
void add_selected_cuda(const T* cosines, Chunk chunk, const T* threshold, const int64_t* target,
                       T* sum, T* count, void* stream) {
  if (chunk.rows == 0) return;
  selected_kernel<<<static_cast<unsigned>(chunk.rows), kThreads, 0, as_stream(stream)>>>(
      cosines, chunk, threshold, target, sum, count);
}

#define FT_INSTANTIATE(T)                                                                     \
  template void add_row_sums_cuda(const T*, Chunk, const RowRule&, RowVectors<T>, RowSums<T>, \
                                  void*);                                                     \
  template void row_gradients_cuda(const T*, T*, Chunk, const RowRule&, RowVectors<T>,        \
                                   RowGradients<T>, void*);                                   \
  template void add_selected_cuda(const T*, Chunk, const T*, const int64_t*, T*, T*, void*);
FT_INSTANTIATE(float)
FT_INSTANTIATE(double)
#undef FT_INSTANTIATE
template void row_gradients_cuda(const float*, Bfloat16*, Chunk, const RowRule&, RowVectors<float>,
                                 RowGradients<float>, void*);

}  // namespace facetrain::kernels
