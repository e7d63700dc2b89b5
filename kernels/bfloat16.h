// bfloat16 as its bits: the upper half of a float. Seen by the CPU and the CUDA kernels alike.
#pragma once

#include <cstdint>

namespace facetrain::kernels {

struct Bfloat16 {
  uint16_t bits;
};

}  // namespace facetrain::kernels
