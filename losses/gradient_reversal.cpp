#include "losses/gradient_reversal.h"

#include "core/torch.h"

namespace facetrain {
namespace {

struct Reversal : torch::autograd::Function<Reversal> {
  static at::Tensor forward(torch::autograd::AutogradContext* context, const at::Tensor& x,
                            double strength) {
    context->saved_data["strength"] = strength;
    return x.view_as(x);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* context,
                                                 torch::autograd::variable_list gradients) {
    return {gradients[0] * -context->saved_data["strength"].toDouble(), at::Tensor()};
  }
};

}  // namespace

at::Tensor reverse_gradient(const at::Tensor& x, double strength) {
  return Reversal::apply(x, strength);
}

}  // namespace facetrain
