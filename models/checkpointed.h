// Activation checkpointing (Chen 2016, arXiv:1604.06174): the backward computes a part of the
// network again instead of keeping its activations.
#pragma once

#include <functional>

#include "core/torch.h"

namespace facetrain {

// run(x), of which only x is kept for the backward; there it runs once more, at the step, position
// and precision of this call, so that gradients have the same bits. `run` must change nothing and
// outlive the backward; its parameters get their gradients, so torch::autograd::grad() cannot be
// asked for them. Without gradients it is just run(x).
torch::Tensor checkpointed(std::function<torch::Tensor(const torch::Tensor&)> run,
                           const torch::Tensor& x);

}  // namespace facetrain
