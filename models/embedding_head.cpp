#include "models/embedding_head.h"

#include "models/init_weights.h"

namespace facetrain {

EmbeddingHeadImpl::EmbeddingHeadImpl(int64_t features, int64_t embedding, double dropout,
                                     double eps)
    : dim_(embedding > 0 ? embedding : features),
      dropout_(register_module("dropout", Dropout(dropout, "feature.dropout"))) {
  if (embedding == 0) return;
  linear_ = register_module("0", Linear(features, embedding, /*bias=*/false));
  norm_ = register_module("1", BatchNorm(embedding, eps));
}

torch::Tensor EmbeddingHeadImpl::forward(const torch::Tensor& feature) {
  const NoAutocast full_precision(c10::autocast_dispatch_keyset);
  const auto x = dropout_(to_full_precision(feature));
  return linear_ ? norm_(linear_(x)) : x;
}

void EmbeddingHeadImpl::initialise(uint64_t seed, const std::string& name) {
  if (linear_) init_normal(linear_->weight, seed, name + ".0.weight", 0, 0.02);
}

}  // namespace facetrain
