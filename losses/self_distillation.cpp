#include "losses/self_distillation.h"

#include <ATen/ATen.h>

namespace facetrain {
namespace {

at::Tensor widened(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}

}  // namespace

at::Tensor soft_cross_entropy(const at::Tensor& logits, const at::Tensor& target,
                              double temperature) {
  return -(target.detach() * at::log_softmax(widened(logits) / temperature, -1)).sum(-1);
}

at::Tensor centred_softmax(const at::Tensor& logits, const at::Tensor& centre, double temperature) {
  const at::NoGradGuard no_grad;
  return at::softmax((widened(logits.detach()) - centre) / temperature, -1);
}

void update_centre(at::Tensor& centre, const at::Tensor& logits, double momentum,
                   Communicator& comm) {
  const at::NoGradGuard no_grad;
  // The number of rows travels as one more column.
  const at::Tensor sums =
      at::cat({logits.detach().to(centre.scalar_type()).sum(0),
               at::full({1}, static_cast<double>(logits.size(0)), centre.options())});
  comm.all_reduce(sums, ReduceOp::kSum).wait();
  const int64_t width = centre.size(0);
  centre.mul_(momentum).add_(sums.narrow(0, 0, width) / sums[width], 1 - momentum);
}

}  // namespace facetrain
