// The small closed sets of what may happen to a negative's logit and how a row of logits becomes a
// loss, and their formulas: written once, for lanes of the CPU kernels and for the threads of the
// CUDA kernels.
//
// c is the cosine of a negative (or the raw product), p0 and p1 numbers of its row, a and b
// constants of the rule. A rule changes c to v; the logit is l = scale v + shift. "Detached"
// corrections have derivative 1, as their papers' codes do.
#pragma once

#ifdef __CUDACC__
#define FT_HD __host__ __device__ inline
#else
#define FT_HD inline
#include "kernels/lanes.h"
#endif

#include <cmath>
#include <cstdint>

namespace facetrain {

// How negatives are changed.
enum class NegativeRule {
  kNone,         // v = c
  kAffineAbove,  // c > p0 ? a c + b : c  (mv-softmax a = w, b = w - 1; npcface; inter-class
                 // filtering a = b = 0)
  kCurricular,   // c > p0 ? c (p1 + c) : c                          (curricularface, p1 = t)
  kGaussian,     // t c + t - 1, t = a exp(-(c - p0)^2 / b) detached (arcnegface)
  kCircle,       // relu(c + a) (c - a), the weight detached         (circle)
  kAngleDivide,  // cos(acos(c) / a), correction detached            (sphereface-r v2)
  kPower,        // 2 ((c + 1) / 2)^a - 1 + b, correction detached   (sphereface2)
};

// How a row of logits becomes a loss. N runs over the negatives; the target's logit l_y = scale φ
// is added by the caller.
enum class RowReduction {
  kSoftmax,      // log(Σ_N exp(l_j) + exp(l_y)) - l_y
  kSoftplusSum,  // α log(1 + exp(-(l_y + shift))) + β Σ_N log(1 + exp(l_j))  (uniface, sphereface2;
                 // shift: a learned bias)
  kGatedSum,  // -l_y + Σ_N g(c_j) l_j, g(c) = σ(slope (centre - acos c)) detached (sface)
};

namespace kernels {

struct RowRule {
  NegativeRule negative = NegativeRule::kNone;
  RowReduction reduction = RowReduction::kSoftmax;
  double a = 0, b = 0;                     // of the negative rule
  double gate_slope = 0, gate_centre = 0;  // of kGatedSum
};

#ifdef __CUDACC__
template <class V>
struct ElementOf {
  using type = V;
};
template <class V>
using Element = typename ElementOf<V>::type;
#endif

FT_HD float exp_of(float x) { return ::expf(x); }
FT_HD double exp_of(double x) { return ::exp(x); }
FT_HD float acos_of(float x) { return ::acosf(x); }
FT_HD double acos_of(double x) { return ::acos(x); }
FT_HD float cos_of(float x) { return ::cosf(x); }
FT_HD double cos_of(double x) { return ::cos(x); }
FT_HD float log_of(float x) { return ::logf(x); }
FT_HD double log_of(double x) { return ::log(x); }
FT_HD float log1p_of(float x) { return ::log1pf(x); }
FT_HD double log1p_of(double x) { return ::log1p(x); }

template <class V>
struct Changed {
  V value, slope;  // v and dv / dc
};

// Rounding may carry a cosine past 1; a NaN stays.
template <class V>
FT_HD V within_one(V c) {
  using T = Element<V>;
  const V one = V{} + T(1);
  const V low = c < -one ? -one : c;
  return low > one ? one : low;
}

template <class V>
FT_HD Changed<V> change_negative(const RowRule& rule, V c, Element<V> p0, Element<V> p1) {
  using T = Element<V>;
  const T a = static_cast<T>(rule.a), b = static_cast<T>(rule.b);
  const V zero = c - c, one = zero + T(1);
  switch (rule.negative) {
    case NegativeRule::kNone:
      break;
    case NegativeRule::kAffineAbove: {
      const V above = a * c + b;
      return {c > zero + p0 ? above : c, c > zero + p0 ? zero + a : one};
    }
    case NegativeRule::kCurricular: {
      const V above = c * (p1 + c);
      const V slope = p1 + c + c;
      return {c > zero + p0 ? above : c, c > zero + p0 ? slope : one};
    }
    case NegativeRule::kGaussian: {
      const V distance = c - p0;
      const V t = a * exp_of(-(distance * distance) / b);
      return {t * c + t - T(1), t};
    }
    case NegativeRule::kCircle: {
      const V sum = c + a;
      const V weight = sum < zero ? zero : sum;
      return {weight * (c - a), weight};
    }
    case NegativeRule::kAngleDivide:
      return {cos_of(acos_of(within_one(c)) / a), one};
    case NegativeRule::kPower: {
      const V half = (within_one(c) + T(1)) * T(0.5);
      const V power = exp_of(a * log_of(half));  // half = 0: exp(-inf) = 0
      return {power + power - T(1) + b, one};
    }
  }
  return {c, one};
}

// 1 / (1 + e^-x) and log(1 + e^x), without overflow.
template <class V>
FT_HD V sigmoid_of(V x) {
  using T = Element<V>;
  const V zero = x - x, one = zero + T(1);
  const V e = exp_of(x < zero ? x : -x);
  const V numerator = x < zero ? e : one;
  return numerator / (one + e);
}
template <class V>
FT_HD V softplus_of(V x) {
  const V zero = x - x;
  const V positive = x < zero ? zero : x;
  return positive + log1p_of(exp_of(x < zero ? x : -x));
}

template <class V>
FT_HD V gate_of(const RowRule& rule, V c) {
  using T = Element<V>;
  return sigmoid_of(static_cast<T>(rule.gate_slope) *
                    (static_cast<T>(rule.gate_centre) - acos_of(within_one(c))));
}

}  // namespace kernels
}  // namespace facetrain
