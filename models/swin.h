// The condition slot of Swin trunks (SOLIDER, Chen 2023, arXiv:2303.17602): one number λ a sample
// that turns the features from semantics (1) to appearance (0).
#pragma once

#include "models/backbone.h"

namespace facetrain {

// A recipe that draws λ reaches the slot with a dynamic_cast from its Backbone; Backbone::forward
// takes the constant model.condition_weight for all samples.
class ConditionedBackbone {
 public:
  virtual ~ConditionedBackbone() = default;
  // Whether the network has the slot (model.condition is not none).
  virtual bool conditioned() const = 0;
  // lambda [B] in [0, 1], on the images' device. Throws without a slot.
  virtual Features forward_conditioned(const torch::Tensor& images,
                                       const torch::Tensor& lambda) = 0;
};

}  // namespace facetrain
