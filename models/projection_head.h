// The heads of methods that compare views: a chain of Linear, norm and activation. Always in full
// precision of its input's type; the last layer's form is the method's.
#pragma once

#include <string>

#include "core/torch.h"
#include "models/batch_norm.h"
#include "models/layers.h"
#include "models/transformer_layers.h"

namespace facetrain {

struct ProjectionHeadOptions {
  int64_t in = 0, hidden = 4096, out = 256, layers = 2;
  std::string norm = "batch";       // between layers: batch | layer | none
  std::string last = "none";        // after the last Linear: none | batch (affine) | plain_batch
  std::string activation = "relu";  // relu | gelu
};

// layers x Linear; a norm and the activation after each but the last. A Linear before a batch norm
// has no bias. Parameters `0.weight`, `1.weight`, ... in the order of use, activations counted too.
class ProjectionHeadImpl : public torch::nn::Module {
 public:
  explicit ProjectionHeadImpl(const ProjectionHeadOptions& options);
  torch::Tensor forward(const torch::Tensor& x);  // [B, in] -> [B, out]
  // Every Linear from N(0, `deviation`) cut at two deviations, or, at 0, as PyTorch's own: uniform
  // within 1 / sqrt(in). `name`: where the head is registered.
  void initialise(uint64_t seed, const std::string& name, double deviation = 0);

 private:
  ProjectionHeadOptions options_;
  std::vector<std::shared_ptr<torch::nn::Module>> steps_;  // null: the activation
};
TORCH_MODULE(ProjectionHead);

// Scores of features against prototypes (SwAV, DINO): x / |x| times the prototypes [K, D], whose
// rows are used as unit vectors. Parameter `weight`. DINO's weight-normalised layer with its gain
// fixed to 1, and SwAV's prototypes that are made unit vectors at every step, are both this.
class PrototypesImpl : public torch::nn::Module {
 public:
  PrototypesImpl(int64_t dim, int64_t count);
  torch::Tensor forward(const torch::Tensor& x);  // [..., D] -> [..., K]
  void initialise(uint64_t seed, const std::string& name);
  torch::Tensor weight;
};
TORCH_MODULE(Prototypes);

}  // namespace facetrain
