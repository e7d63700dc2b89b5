#include "trainer/embedding_evaluation.h"

namespace facetrain {

torch::Tensor embed(Backbone& backbone, const torch::Tensor& images,
                    const Normalization& normalization) {
  const auto type = backbone.parameters().front().scalar_type();
  return backbone.forward(normalise(images, normalization, type)).embedding;
}

std::map<std::string, double> evaluate_network(std::span<const EvaluationSet> sets,
                                               Backbone& backbone,
                                               const Normalization& normalization,
                                               Communicator& comm) {
  const auto device = backbone.parameters().front().device();
  const auto forward = [&](const torch::Tensor& images) {
    return embed(backbone, images.to(device), normalization);
  };
  return evaluate_sets(sets, forward, comm);
}

}  // namespace facetrain
