#include "trainer/ema.h"

namespace facetrain {

Ema::Ema(double decay, const std::vector<std::pair<std::string, torch::Tensor>>& parameters)
    : decay_(decay) {
  if (!enabled()) return;
  for (const auto& [name, tensor] : parameters) {
    names_.push_back("ema." + name);
    parameters_.push_back(tensor.detach());
    averages_.push_back(tensor.detach().clone());
  }
}

void Ema::update(int64_t updates) {
  if (averages_.empty()) return;  // off, or nothing replicated is trained
  const torch::NoGradGuard no_grad;
  const auto n = static_cast<double>(updates);
  const double decay = std::min(decay_, (1 + n) / (10 + n));
  at::_foreach_lerp_(averages_, parameters_, 1 - decay);
}

NamedTensors Ema::tensors() const {
  NamedTensors result;
  for (size_t i = 0; i < averages_.size(); ++i) result.emplace_back(names_[i], averages_[i]);
  return result;
}

void Ema::swap() {
  const torch::NoGradGuard no_grad;
  for (size_t i = 0; i < averages_.size(); ++i) {
    const auto kept = parameters_[i].clone();
    parameters_[i].copy_(averages_[i]);
    averages_[i].copy_(kept);
  }
}

}  // namespace facetrain
