// What the recipes whose networks embed faces share: pictures to embeddings, and the figures of
// named sets during training.
#pragma once

#include <map>
#include <span>
#include <string>

#include "trainer/recipe.h"

namespace facetrain {

// Images [B, H, W, 3] uint8 on the network's device -> [B, D].
torch::Tensor embed(Backbone& backbone, const torch::Tensor& images,
                    const Normalization& normalization);

// **Collective.** The figures of every set by its protocol (NAME.accuracy, NAME.rank1 ..; see
// eval/protocol.h), the same on every rank. The network is in eval mode.
std::map<std::string, double> evaluate_network(std::span<const EvaluationSet> sets,
                                               Backbone& backbone,
                                               const Normalization& normalization,
                                               Communicator& comm);

}  // namespace facetrain
