#include "trainer/trust_ratio.h"

namespace facetrain {

TrustRatioSgd::TrustRatioSgd(const TrustRatioOptions& options,
                             const std::vector<Parameter>& parameters,
                             const std::vector<std::string>& unadapted)
    : Optimizer(
          options,
          options.momentum > 0 ? std::vector<std::string>{"momentum"} : std::vector<std::string>{},
          make_groups(parameters, options, unadapted)),
      options_(options) {
  for (const auto& parameter : parameters)
    FT_CHECK(
        !parameter.own_update,
        "optimizer: the rows of '{}' update themselves as they are computed, and this optimizer "
        "adapts whole tensors: take sgd or adamw",
        parameter.name);
}

std::vector<TrustRatioSgd::Norms> TrustRatioSgd::norms(const std::vector<Item>& items,
                                                       Communicator* comm) {
  if (items.empty()) return {};
  std::vector<torch::Tensor> weights, gradients;
  for (const Item& item : items) {
    // Replicated tensors are rank 0's alone: equal ones may sum to other last bits on other CPUs.
    const bool mine = item.parameter->owner || !comm || comm->rank() == 0;
    weights.push_back(mine ? item.parameter->tensor : torch::Tensor());
    gradients.push_back(mine ? item.gradient : torch::Tensor());
  }
  const auto sums = torch::stack({square_sums(weights), square_sums(gradients)});
  if (comm && comm->size() > 1) comm->all_reduce(sums, ReduceOp::kSum).wait();
  const auto values = sums.sqrt();
  const double* weight = values.const_data_ptr<double>();
  std::vector<Norms> result;
  for (size_t i = 0; i < items.size(); ++i) result.push_back({weight[i], weight[items.size() + i]});
  return result;
}

void TrustRatioSgd::update(torch::TensorList tensors, torch::TensorList gradients,
                           const std::vector<std::vector<torch::Tensor>>& states, double lr, double,
                           int64_t) {
  const std::vector<torch::Tensor> momenta =
      states.empty() ? std::vector<torch::Tensor>{} : states[0];
  at::_fused_sgd_(tensors, gradients, momenta, /*weight_decay=*/0.0, options_.momentum, lr,
                  /*dampening=*/0.0, /*nesterov=*/false, /*maximize=*/false,
                  /*is_first_step=*/false);
}

}  // namespace facetrain
