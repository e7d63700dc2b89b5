// An exponential moving average of the replicated trained weights: e = d e + (1 - d) w after every
// update.
//
// Checkpoints hold it under `ema.`; eval, embed and export use it where it is there, with the
// network's own buffers.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "core/safetensors.h"
#include "core/torch.h"

namespace facetrain {

class Ema {
 public:
  // `decay` 0: off, no memory.
  Ema(double decay, const std::vector<std::pair<std::string, torch::Tensor>>& parameters);
  bool enabled() const { return decay_ > 0; }
  // Called after the parameters changed. `updates`: how many there have been; the decay is
  // min(decay, (1 + n) / (10 + n)), so that the first weights are forgotten.
  void update(int64_t updates);
  // The averages under "ema.<name>"; tensors that may be read into (a resume) or written (a
  // checkpoint).
  NamedTensors tensors() const;
  // Exchanges averages and parameters; call twice to undo. For an evaluation.
  void swap();

 private:
  double decay_;
  std::vector<std::string> names_;
  std::vector<torch::Tensor> parameters_, averages_;
};

}  // namespace facetrain
