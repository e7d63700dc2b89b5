#include "models/checkpointed.h"

#include <ATen/autocast_mode.h>

#include <memory>

#include "core/step_context.h"

namespace facetrain {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

// What a part of the forward depends on beside its input.
struct Recipe : torch::CustomClassHolder {
  std::function<Tensor(const Tensor&)> run;
  StepContext step;
  at::DeviceType device = at::kCPU;
  bool autocast = false;
  at::ScalarType half = at::kBFloat16;
};

// Autocast as it was in the forward, and without its cache: a weight that was cast where nothing is
// recorded must not be found where gradients are wanted.
class SameAutocast {
 public:
  SameAutocast(at::DeviceType device, bool enabled, at::ScalarType half)
      : device_(device),
        enabled_(at::autocast::is_autocast_enabled(device)),
        cache_(at::autocast::is_autocast_cache_enabled()),
        half_(at::autocast::get_autocast_dtype(device)) {
    set(enabled, half, false);
  }
  ~SameAutocast() { set(enabled_, half_, cache_); }
  SameAutocast(const SameAutocast&) = delete;
  SameAutocast& operator=(const SameAutocast&) = delete;

 private:
  void set(bool enabled, at::ScalarType half, bool cache) {
    at::autocast::set_autocast_enabled(device_, enabled);
    at::autocast::set_autocast_dtype(device_, half);
    at::autocast::set_autocast_cache_enabled(cache);
  }
  at::DeviceType device_;
  bool enabled_, cache_;
  at::ScalarType half_;
};

Tensor run_again(const Recipe& recipe, const Tensor& x) {
  const StepScope step(recipe.step);
  const SameAutocast precision(recipe.device, recipe.autocast, recipe.half);
  return recipe.run(x);
}

// `trained` requires gradients, so that the parameters get theirs where x needs none.
class Checkpointed : public torch::autograd::Function<Checkpointed> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& /*trained*/,
                        const c10::intrusive_ptr<Recipe>& recipe) {
    context->save_for_backward({x});
    context->saved_data["recipe"] = c10::IValue::make_capsule(recipe);
    return run_again(*recipe, x);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables().front();
    const auto capsule = context->saved_data["recipe"].toCapsule();
    const auto& recipe = static_cast<const Recipe&>(*capsule);
    const auto x = saved.detach().requires_grad_(saved.requires_grad());
    Tensor y;
    {
      const at::AutoGradMode recorded(true);
      y = run_again(recipe, x);
    }
    torch::autograd::backward({y}, {gradients.front()});
    return {x.grad(), {}, {}};
  }
};

}  // namespace

Tensor checkpointed(std::function<Tensor(const Tensor&)> run, const Tensor& x) {
  if (!at::GradMode::is_enabled()) return run(x);
  const auto recipe = c10::make_intrusive<Recipe>();
  recipe->run = std::move(run);
  recipe->step = step_context();
  recipe->device = x.device().type();
  recipe->autocast = at::autocast::is_autocast_enabled(recipe->device);
  recipe->half = at::autocast::get_autocast_dtype(recipe->device);
  return Checkpointed::apply(x, torch::empty({0}, x.options().requires_grad(true)), recipe);
}

}  // namespace facetrain
