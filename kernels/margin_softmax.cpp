#include "kernels/margin_softmax.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "kernels/lanes.h"

namespace facetrain::kernels {
namespace {

template <class T>
T at(const T* vector, int64_t row, T fallback) {
  return vector ? vector[row] : fallback;
}

template <class T>
struct Row {
  T scale, shift, p0, p1;
  Row(const RowVectors<T>& rows, int64_t b)
      : scale(at(rows.scale, b, T(1))),
        shift(at(rows.shift, b, T(0))),
        p0(at(rows.p0, b, T(0))),
        p1(at(rows.p1, b, T(0))) {}
};

// Column of the target within the chunk, or -1.
int64_t target_column(const int64_t* target, int64_t b, const Chunk& chunk) {
  const int64_t column = target ? target[b] - chunk.first : -1;
  return target && target[b] >= 0 && column >= 0 && column < chunk.columns ? column : -1;
}

// Calls body(lanes, count) over the columns other than the target; count < kLanes at the end of a
// run.
template <class T, class Body>
void for_negatives(const T* row, int64_t columns, int64_t target, Body body) {
  const auto run = [&](int64_t begin, int64_t end) {
    int64_t j = begin;
    for (; j + kLanes<T> <= end; j += kLanes<T>) body(load(row + j), kLanes<T>);
    if (j < end) body(load_some(row + j, end - j), end - j);
  };
  run(0, target < 0 ? columns : target);
  if (target >= 0) run(target + 1, columns);
}

template <class T>
T largest_logit(const T* row, int64_t columns, int64_t target, const RowRule& rule,
                const Row<T>& r) {
  constexpr T kLowest = -std::numeric_limits<T>::infinity();
  Lanes<T> best = Lanes<T>{} + kLowest;
  for_negatives(row, columns, target, [&](Lanes<T> c, int64_t count) {
    const Lanes<T> v =
        rule.negative == NegativeRule::kNone ? c : change_negative(rule, c, r.p0, r.p1).value;
    Lanes<T> l = r.scale * v + r.shift;
    for (int64_t i = count; i < kLanes<T>; ++i) l[i] = kLowest;
    best = l > best ? l : best;
  });
  T result = best[0];
  for (int64_t i = 1; i < kLanes<T>; ++i) result = std::max(result, T(best[i]));
  return result;
}

template <class T>
struct Sums {
  T sum = 0, weight = 0, value = 0, plain = 0;
};

// Σ exp(l - maximum), Σ exp(l - maximum) v and Σ v.
template <class T>
Sums<T> softmax_sums(const T* row, int64_t columns, int64_t target, const RowRule& rule,
                     const Row<T>& r, T maximum, bool want_value, bool want_plain) {
  Lanes<T> sum{}, value{}, plain{};
  const T shift = r.shift - maximum;
  for_negatives(row, columns, target, [&](Lanes<T> c, int64_t count) {
    const Lanes<T> v =
        rule.negative == NegativeRule::kNone ? c : change_negative(rule, c, r.p0, r.p1).value;
    Lanes<T> term = exp_of(r.scale * v + shift);
    if (count < kLanes<T>) term = keep_some(term, count);
    sum += term;
    if (want_value) value += term * v;
    if (want_plain) plain += keep_some(v, count);
  });
  return {sum_of(sum), sum_of(sum), sum_of(value), sum_of(plain)};
}

// The reductions that are plain sums of terms.
template <class T>
Sums<T> term_sums(const T* row, int64_t columns, int64_t target, const RowRule& rule,
                  const Row<T>& r) {
  Lanes<T> sum{}, weight{}, value{}, plain{};
  for_negatives(row, columns, target, [&](Lanes<T> c, int64_t count) {
    const Lanes<T> v = change_negative(rule, c, r.p0, r.p1).value;
    const Lanes<T> l = r.scale * v + r.shift;
    const bool gated = rule.reduction == RowReduction::kGatedSum;
    const Lanes<T> w = keep_some(gated ? gate_of(rule, c) : sigmoid_of(l), count);
    sum += gated ? w * l : keep_some(softplus_of(l), count);
    weight += w;
    value += w * v;
    plain += keep_some(v, count);
  });
  return {sum_of(sum), sum_of(weight), sum_of(value), sum_of(plain)};
}

void put_one(float* to, float v) { *to = v; }
void put_one(double* to, double v) { *to = v; }
void put_one(Bfloat16* to, float v) { put(to, Floats{} + v, 1); }

template <class T>
Lanes<T> weight_of(const RowRule& rule, Lanes<T> c, Lanes<T> l, T log_sum) {
  if (rule.reduction == RowReduction::kSoftmax) return exp_of(l - log_sum);
  return rule.reduction == RowReduction::kGatedSum ? gate_of(rule, c) : sigmoid_of(l);
}

}  // namespace

template <class T>
void add_row_sums_cpu(const T* cosines, Chunk chunk, const RowRule& rule, RowVectors<T> rows,
                      RowSums<T> sums, int64_t row_begin, int64_t row_end) {
  for (int64_t b = row_begin; b < row_end; ++b) {
    const T* row = cosines + b * chunk.columns;
    const int64_t target = target_column(rows.target, b, chunk);
    const Row<T> r(rows, b);
    Sums<T> more;
    if (rule.reduction == RowReduction::kSoftmax) {
      const T before = sums.maximum[b];
      const T maximum = std::max(before, largest_logit(row, chunk.columns, target, rule, r));
      if (maximum == -std::numeric_limits<T>::infinity() && chunk.columns <= (target >= 0))
        continue;
      more = softmax_sums(row, chunk.columns, target, rule, r, maximum, sums.value_sum != nullptr,
                          sums.plain_sum != nullptr);
      const T fade = before == maximum ? T(1) : std::exp(before - maximum);
      sums.maximum[b] = maximum;
      sums.sum[b] *= fade;
      if (sums.weight_sum) sums.weight_sum[b] *= fade;
      if (sums.value_sum) sums.value_sum[b] *= fade;
    } else {
      more = term_sums(row, chunk.columns, target, rule, r);
    }
    sums.sum[b] += more.sum;
    if (sums.weight_sum) sums.weight_sum[b] += more.weight;
    if (sums.value_sum) sums.value_sum[b] += more.value;
    if (sums.plain_sum) sums.plain_sum[b] += more.plain;
  }
}

template <class T, class Out>
void row_gradients_cpu(const T* cosines, Out* out, Chunk chunk, const RowRule& rule,
                       RowVectors<T> rows, RowGradients<T> gradients, int64_t row_begin,
                       int64_t row_end) {
  const bool plain = rule.negative == NegativeRule::kNone &&
                     rule.reduction == RowReduction::kSoftmax && !gradients.constant;
  for (int64_t b = row_begin; b < row_end; ++b) {
    const T* row = cosines + b * chunk.columns;
    Out* to = out + b * chunk.columns;
    const Row<T> r(rows, b);
    const T coefficient = gradients.coefficient[b], log_sum = at(gradients.log_sum, b, T(0));
    const T shift = r.shift - log_sum, constant = at(gradients.constant, b, T(0));
    int64_t j = 0;
    for_negatives(row, chunk.columns, -1, [&](Lanes<T> c, int64_t count) {
      if (plain) {
        put(to + j, coefficient * exp_of(r.scale * c + shift), count);
      } else {
        const Changed<Lanes<T>> v = change_negative(rule, c, r.p0, r.p1);
        const Lanes<T> weight = weight_of<T>(rule, c, r.scale * v.value + r.shift, log_sum);
        put(to + j, (coefficient * weight - constant) * v.slope, count);
      }
      j += count;
    });
    const int64_t target = target_column(rows.target, b, chunk);
    if (target >= 0) put_one(to + target, gradients.target_gradient[b]);
  }
}

template <class T>
void add_selected_cpu(const T* cosines, Chunk chunk, const T* threshold, const int64_t* target,
                      T* sum, T* count, int64_t row_begin, int64_t row_end) {
  for (int64_t b = row_begin; b < row_end; ++b) {
    const T limit = threshold[b];
    Lanes<T> total{}, number{};
    for_negatives(cosines + b * chunk.columns, chunk.columns, target_column(target, b, chunk),
                  [&](Lanes<T> c, int64_t lanes) {
                    const Lanes<T> zero{}, one = zero + T(1);
                    total += keep_some(c > limit ? c : zero, lanes);
                    number += keep_some(c > limit ? one : zero, lanes);
                  });
    sum[b] += sum_of(total);
    count[b] += sum_of(number);
  }
}

#define FT_INSTANTIATE(T)                                                                    \
  template void add_row_sums_cpu(const T*, Chunk, const RowRule&, RowVectors<T>, RowSums<T>, \
                                 int64_t, int64_t);                                          \
  template void row_gradients_cpu(const T*, T*, Chunk, const RowRule&, RowVectors<T>,        \
                                  RowGradients<T>, int64_t, int64_t);                        \
  template void add_selected_cpu(const T*, Chunk, const T*, const int64_t*, T*, T*, int64_t, \
                                 int64_t);
FT_INSTANTIATE(float)
FT_INSTANTIATE(double)
#undef FT_INSTANTIATE
template void row_gradients_cpu(const float*, Bfloat16*, Chunk, const RowRule&, RowVectors<float>,
                                RowGradients<float>, int64_t, int64_t);

}  // namespace facetrain::kernels
