// Embeddings of a whole data set, computed by all ranks together.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>

#include "comm/communicator.h"
#include "data/source.h"

namespace facetrain {

// uint8 images [B, H, W, 3] on the CPU -> [B, D]; called without autograd.
using EmbedFunction = std::function<at::Tensor(const at::Tensor& images)>;

struct EmbedOptions {
  int64_t batch = 64;
  // Adds the embedding of the mirrored image to that of the image, both raw (verify_pairs makes
  // unit vectors of the sum).
  bool flip = false;
  double tell_every = 10;  // seconds between lines that say how far rank 0 is
};

// **Collective.** Embeddings of all samples in the order of the source, float32 [N, D] on the CPU,
// the same on all ranks. Ranks share whole batches, so which images stand in a batch, and with it
// every bit, does not depend on their number. All images must have one size. Throws what the source
// and the function throw.
at::Tensor embed_source(const Source& source, const EmbedFunction& forward,
                        const EmbedOptions& options, Communicator& comm);

}  // namespace facetrain
