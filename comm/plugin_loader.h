// Loads the CUDA plugin, or says why there is none.
#pragma once

#include "comm/cuda_plugin.h"

namespace facetrain {

// The plugin, loaded once and kept; throws when it was not built, when the machine has no driver or
// no GPU.
const CudaPlugin& cuda_plugin();

}  // namespace facetrain
