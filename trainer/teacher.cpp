#include "trainer/teacher.h"

#include <cmath>
#include <numbers>

#include "core/check.h"

namespace facetrain {
namespace {

using Named = torch::OrderedDict<std::string, torch::Tensor>;

std::vector<std::pair<torch::Tensor, torch::Tensor>> copied_pairs(const Named& own,
                                                                  const Named& student) {
  const torch::NoGradGuard no_grad;
  std::vector<std::pair<torch::Tensor, torch::Tensor>> pairs;
  for (const auto& item : own) {
    const torch::Tensor* from = student.find(item.key());
    FT_CHECK(from && from->sizes() == item.value().sizes(),
             "a teacher has the tensor '{}', which its student {}", item.key(),
             from ? "has in another shape" : "lacks");
    torch::Tensor to = item.value();
    to.copy_(*from);
    pairs.emplace_back(to, *from);
  }
  return pairs;
}

void append(auto& to, const auto& from) { to.insert(to.end(), from.begin(), from.end()); }

}  // namespace

void Teacher::pair_up(const torch::nn::Module& student, const torch::nn::Module& network) {
  append(parameters_, copied_pairs(network.named_parameters(), student.named_parameters()));
  append(buffers_, copied_pairs(network.named_buffers(), student.named_buffers()));
}

void Teacher::update(double momentum) {
  const torch::NoGradGuard no_grad;
  for (const auto& [own, from] : parameters_) {
    torch::Tensor(own).mul_(momentum).add_(from, 1 - momentum);
  }
  if (mode_ == Mode::kEval)
    for (const auto& [own, from] : buffers_) torch::Tensor(own).copy_(from);
}

// "*" would also mean eval mode.
std::vector<std::string> Teacher::frozen() const {
  if (mode_ == Mode::kEval) return {"*"};
  std::vector<std::string> names;
  for (const auto& item : named_parameters()) names.push_back(item.key());
  return names;
}

double teacher_momentum(double base, const Progress& at) {
  const double part =
      at.total > 0 ? static_cast<double>(at.step) / static_cast<double>(at.total) : 0;
  return 1 - (1 - base) * (std::cos(std::numbers::pi * part) + 1) / 2;
}

}  // namespace facetrain
