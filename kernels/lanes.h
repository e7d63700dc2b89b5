// Eight floats or four doubles at once, as GCC vectors: what the CPU kernels are written in.
//
// Vectors of 32 bytes are AVX2's; on machines with less the compiler splits them. exp_of(float
// lanes) is a polynomial with a relative error of at most 2 units in the last place; the functions
// without a fast version go lane by lane.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "kernels/bfloat16.h"

namespace facetrain::kernels {

using Floats = float __attribute__((vector_size(32)));
using Doubles = double __attribute__((vector_size(32)));

template <class T>
struct LanesOf;
template <>
struct LanesOf<float> {
  using type = Floats;
};
template <>
struct LanesOf<double> {
  using type = Doubles;
};
template <class T>
using Lanes = typename LanesOf<T>::type;
template <class T>
inline constexpr int64_t kLanes = 32 / sizeof(T);

template <class V>
struct ElementOf {
  using type = V;
};
template <>
struct ElementOf<Floats> {
  using type = float;
};
template <>
struct ElementOf<Doubles> {
  using type = double;
};
template <class V>
using Element = typename ElementOf<V>::type;

template <class T>
inline Lanes<T> load(const T* from) {
  Lanes<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
inline void store(T* to, Lanes<T> v) {
  std::memcpy(to, &v, sizeof v);
}
// The first `count` values, zero beyond.
template <class T>
inline Lanes<T> load_some(const T* from, int64_t count) {
  Lanes<T> v{};
  std::memcpy(&v, from, static_cast<size_t>(count) * sizeof(T));
  return v;
}
// Zero from lane `count` on.
template <class V>
inline V keep_some(V v, int64_t count) {
  for (int64_t i = count; i < static_cast<int64_t>(sizeof(V) / sizeof(v[0])); ++i) v[i] = 0;
  return v;
}
template <class V>
inline auto sum_of(V v) {
  auto total = v[0];
  for (size_t i = 1; i < sizeof(V) / sizeof(v[0]); ++i) total += v[i];
  return total;
}

// Stores the first `count` lanes.
inline void put(float* to, Floats v, int64_t count) {
  if (count == kLanes<float>) return store(to, v);
  std::memcpy(to, &v, static_cast<size_t>(count) * sizeof(float));
}
inline void put(double* to, Doubles v, int64_t count) {
  if (count == kLanes<double>) return store(to, v);
  std::memcpy(to, &v, static_cast<size_t>(count) * sizeof(double));
}
// Rounds to nearest, ties to even; a NaN stays one.
inline void put(Bfloat16* to, Floats v, int64_t count) {
  using Words = uint32_t __attribute__((vector_size(32)));
  using Halves = uint16_t __attribute__((vector_size(16)));
  const Words bits = std::bit_cast<Words>(v);
  const Words rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Words nan = Words{} + 0x7fc0u;
  const Halves halves = __builtin_convertvector(v == v ? rounded : nan, Halves);
  std::memcpy(to, &halves, static_cast<size_t>(count) * sizeof(Bfloat16));
}

// ---- functions of lanes; the names are those of margin_rules.h for single values
// ------------------------------------

template <class V, class F>
inline V by_lane(V v, F f) {
  for (size_t i = 0; i < sizeof(V) / sizeof(v[0]); ++i) v[i] = f(v[i]);
  return v;
}

// e^x for x <= 88 (beyond, e^88); below -87.3 zero. x = n ln 2 + r, |r| <= ln 2 / 2, and the series
// of e^r to r^7, whose remainder r^8 / 8! is below 6e-9.
inline Floats exp_of(Floats x) {
  using Ints = int32_t __attribute__((vector_size(32)));
  constexpr float kMagic =
      12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low bits
  const Floats clamped = x > 88.0f ? Floats{} + 88.0f : x;
  const Floats shifted = clamped * 1.44269504088896341f + kMagic;
  const Floats n = shifted - kMagic;
  Floats r = clamped - n * 0.693359375f;  // ln 2 in two parts; the first has nine significant bits
  r = r - n * -2.12194440e-4f;
  Floats e = r * (1.0f / 5040) + (1.0f / 720);
  e = e * r + (1.0f / 120);
  e = e * r + (1.0f / 24);
  e = e * r + (1.0f / 6);
  e = e * r + 0.5f;
  e = e * r + 1.0f;
  e = e * r + 1.0f;
  const Floats magic = Floats{} + kMagic;
  const Ints exponent = (std::bit_cast<Ints>(shifted) - std::bit_cast<Ints>(magic) + 127) << 23;
  const Floats result = e * std::bit_cast<Floats>(exponent);
  return x < -87.3f ? Floats{} : result;  // a NaN goes through e
}
inline Doubles exp_of(Doubles x) {
  return by_lane(x, [](double v) { return std::exp(v); });
}
#define FT_BY_LANE(name, function)                                                \
  inline Floats name(Floats x) {                                                  \
    return by_lane(x, [](float v) { return static_cast<float>(function(v)); });   \
  }                                                                               \
  inline Doubles name(Doubles x) {                                                \
    return by_lane(x, [](double v) { return static_cast<double>(function(v)); }); \
  }
FT_BY_LANE(acos_of, std::acos)
FT_BY_LANE(cos_of, std::cos)
FT_BY_LANE(log_of, std::log)
FT_BY_LANE(log1p_of, std::log1p)
#undef FT_BY_LANE

}  // namespace facetrain::kernels
