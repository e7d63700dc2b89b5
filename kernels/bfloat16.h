// bfloat16 as its bits: the upper half of a float. Seen by the CPU and the CUDA kernels alike.
#pragma once

#include <cstdint>

namespace facetrain::kernels {

struct Bfloat16 {
  uint16_t bits;
};

#ifdef __CUDACC__
__device__ inline void put(float* to, float v) { *to = v; }
__device__ inline void put(double* to, double v) { *to = v; }
// Rounds to nearest, ties to even; a NaN stays one.
__device__ inline void put(Bfloat16* to, float v) {
  const uint32_t bits = __float_as_uint(v);
  to->bits = static_cast<uint16_t>(v == v ? (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16 : 0x7fc0u);
}
#endif

}  // namespace facetrain::kernels
