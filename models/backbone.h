// A torch module from images to features. One family a file, registered under the name that `model.name` takes.
#pragma once

#include <torch/torch.h>

#include <string>
#include <vector>

#include "core/registry.h"

namespace facetrain {

// What a trunk offers; a recipe takes what its heads need.
struct Features {
  torch::Tensor embedding;              // [B, D]
  torch::Tensor tokens;                 // [B, T, C] or undefined
  std::vector<torch::Tensor> pyramid;   // [B, C_i, H_i, W_i], finest first; may be empty
};

class Backbone : public torch::nn::Module {
 public:
  static constexpr const char* kKind = "backbone";
  // Images [B, 3, H, W], normalised, channels_last preferred.
  virtual Features forward(const torch::Tensor& images) = 0;
  virtual int64_t dim() const = 0;         // D of the embedding
  virtual int64_t image_size() const = 0;  // pixels of the square input this network is built for
};

// What every network is told beside its own options.
struct BackboneContext {
  uint64_t seed = 0;         // of the initialisation: parameter p is drawn from (seed, name of p)
  int64_t image_size = 112;  // data.size, or the network's own default when 0
};
using Backbones = Registry<Backbone, const BackboneContext&>;

// Draws one parameter in place from (seed, name): the same on every rank and device, whatever else is initialised.
void init_normal(torch::Tensor parameter, uint64_t seed, const std::string& name, double mean, double deviation);
void init_uniform(torch::Tensor parameter, uint64_t seed, const std::string& name, double low, double high);

}  // namespace facetrain
