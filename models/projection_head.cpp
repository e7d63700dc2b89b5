#include "models/projection_head.h"

#include <cmath>

#include "core/check.h"
#include "models/init_weights.h"

namespace facetrain {

ProjectionHeadImpl::ProjectionHeadImpl(const ProjectionHeadOptions& options) : options_(options) {
  FT_CHECK(options.layers >= 1 && options.in > 0 && options.out > 0,
           "a head wants at least one layer and sizes > 0, found {} layers, {} -> {}",
           options.layers, options.in, options.out);
  int64_t number = 0;
  const auto add = [&](std::shared_ptr<torch::nn::Module> step) {
    if (step) register_module(std::to_string(number), step);
    ++number;
    steps_.push_back(std::move(step));
  };
  int64_t width = options.in;
  for (int64_t layer = 0; layer < options.layers; ++layer) {
    const bool last = layer + 1 == options.layers;
    const int64_t out = last ? options.out : options.hidden;
    const std::string norm = last ? (options.last == "none" ? "none" : "batch") : options.norm;
    add(std::make_shared<LinearImpl>(width, out, /*bias=*/norm != "batch"));
    if (norm == "batch")
      add(std::make_shared<BatchNormImpl>(out, 1e-5, 0.1, !last || options.last == "batch"));
    if (norm == "layer") add(std::make_shared<LayerNormImpl>(out, 1e-5));
    if (!last) add(nullptr);
    width = out;
  }
}

torch::Tensor ProjectionHeadImpl::forward(const torch::Tensor& x) {
  torch::Tensor y = x;
  for (const auto& step : steps_) {
    if (!step) {
      y = options_.activation == "gelu" ? torch::gelu(y) : torch::relu(y);
    } else if (auto* linear = step->as<LinearImpl>()) {
      y = linear->forward(y);
    } else if (auto* batch = step->as<BatchNormImpl>()) {
      y = batch->forward(y);
    } else {
      y = step->as<LayerNormImpl>()->forward(y);
    }
  }
  return y;
}

void ProjectionHeadImpl::initialise(uint64_t seed, const std::string& name, double deviation) {
  for (const auto& item : named_parameters()) {
    const auto& p = item.value();
    const std::string full = name + "." + item.key();
    const bool of_linear = p.dim() == 2;
    if (of_linear && deviation > 0) {
      init_trunc_normal(p, seed, full, deviation);
    } else if (of_linear) {
      const double bound = 1 / std::sqrt(static_cast<double>(p.size(1)));
      init_uniform(p, seed, full, -bound, bound);
    }
  }
}

PrototypesImpl::PrototypesImpl(int64_t dim, int64_t count) {
  weight = register_parameter("weight", torch::zeros({count, dim}));
}

torch::Tensor PrototypesImpl::forward(const torch::Tensor& x) {
  const auto unit = [](const torch::Tensor& rows) {
    return rows / rows.norm(2, {-1}, /*keepdim=*/true).clamp_min(1e-12);
  };
  return unit(x).matmul(unit(weight).t());
}

void PrototypesImpl::initialise(uint64_t seed, const std::string& name) {
  const double bound = 1 / std::sqrt(static_cast<double>(weight.size(1)));
  init_uniform(weight, seed, name + ".weight", -bound, bound);
}

}  // namespace facetrain
