// What stands between a trunk's own feature and the embedding: nothing (model.embedding: 0, the
// feature is the embedding, as timm's num_classes=0 gives it), or dropout, a Linear without bias
// and a batch norm (model.embedding > 0, for recognition). Always in full precision.
#pragma once

#include <string>

#include "core/torch.h"
#include "models/layers.h"

namespace facetrain {

// Register it as `feature`: its parameters are then `feature.0.weight` and `feature.1.*`, and a
// trunk with embedding 0 has none of them, so that its names stay those of the public file. The
// weight is drawn from N(0, 0.02) by initialise().
class EmbeddingHeadImpl : public torch::nn::Module {
 public:
  // embedding 0: the feature itself. `dropout` zeroes inputs of the last layer in both forms.
  EmbeddingHeadImpl(int64_t features, int64_t embedding, double dropout, double eps = 1e-5);
  torch::Tensor forward(const torch::Tensor& feature);  // [B, features] -> [B, dim()], fp32 or fp64
  int64_t dim() const { return dim_; }
  // `name`: where the head is registered.
  void initialise(uint64_t seed, const std::string& name = "feature");

 private:
  int64_t dim_;
  Dropout dropout_;
  Linear linear_{nullptr};
  BatchNorm norm_{nullptr};
};
TORCH_MODULE(EmbeddingHead);

}  // namespace facetrain
