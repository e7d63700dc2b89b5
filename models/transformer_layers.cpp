#include "models/transformer_layers.h"

#include "core/check.h"

namespace facetrain {

using torch::Tensor;

LayerNormImpl::LayerNormImpl(int64_t dim, double eps)
    : weight(register_parameter("weight", torch::ones({dim}))),
      bias(register_parameter("bias", torch::zeros({dim}))),
      eps_(eps) {}
Tensor LayerNormImpl::forward(const Tensor& x) {
  return at::layer_norm(x, {weight.size(0)}, weight, bias, eps_);
}

LayerScaleImpl::LayerScaleImpl(int64_t dim, double initial)
    : gamma(register_parameter("gamma", torch::full({dim}, initial))) {}
Tensor LayerScaleImpl::forward(const Tensor& x) { return x * gamma; }

Tensor activate(const Tensor& x, Activation activation) {
  switch (activation) {
    case Activation::kGelu:
      return at::gelu(x);
    case Activation::kQuickGelu:
      return x * at::sigmoid(1.702 * x);
    case Activation::kRelu6:
      return at::hardtanh(x, 0, 6);
  }
  FT_FAIL("no such activation: {}", static_cast<int>(activation));
}

MlpImpl::MlpImpl(int64_t dim, int64_t hidden, Activation activation)
    : fc1(register_module("fc1", Linear(dim, hidden))),
      fc2(register_module("fc2", Linear(hidden, dim))),
      activation_(activation) {}
Tensor MlpImpl::forward(const Tensor& x) { return fc2(activate(fc1(x), activation_)); }

double drop_path_at(double last, int64_t block, int64_t blocks) {
  return blocks <= 1 ? 0.0 : last * static_cast<double>(block) / static_cast<double>(blocks - 1);
}

}  // namespace facetrain
