#include "losses/row_loss.h"

namespace facetrain {
namespace {

at::Tensor log_one_plus_exp(const at::Tensor& x) { return at::logaddexp(at::zeros_like(x), x); }

RowLoss softmax_loss(const MarginOutput& margin, const RowSums& sums) {
  const at::Tensor logit = margin.scale * margin.phi;
  const at::Tensor excess = negative_log_sum(sums) - logit;
  RowLoss row;
  row.loss = log_one_plus_exp(excess);
  row.log_sum = logit + row.loss;
  row.coefficient = margin.scale;
  const at::Tensor dlogit = -at::sigmoid(excess);  // p_y - 1
  row.dphi = dlogit * margin.scale;
  if (sums.value_sum.defined())
    row.dscale = dlogit * margin.phi + sums.value_sum * at::exp(sums.maximum - row.log_sum);
  return row;
}

RowLoss softplus_loss(const MarginRule& rule, const MarginOutput& margin, const RowSums& sums,
                      const at::Tensor& shift) {
  at::Tensor logit = margin.scale * margin.phi;
  if (shift.defined()) logit = logit + shift;
  RowLoss row;
  row.loss = rule.alpha * log_one_plus_exp(-logit) + rule.beta * sums.sum;
  row.coefficient = rule.beta * margin.scale;
  const at::Tensor dlogit = -rule.alpha * at::sigmoid(-logit);
  row.dphi = dlogit * margin.scale;
  if (sums.value_sum.defined()) row.dscale = dlogit * margin.phi + rule.beta * sums.value_sum;
  if (sums.weight_sum.defined()) row.dshift = dlogit + rule.beta * sums.weight_sum;
  return row;
}

RowLoss gated_loss(const MarginOutput& margin, const RowSums& sums) {
  RowLoss row;
  row.loss = sums.sum - margin.scale * margin.phi;
  row.coefficient = margin.scale;
  row.dphi = -margin.scale;
  if (sums.value_sum.defined()) row.dscale = sums.value_sum - margin.phi;
  return row;
}

}  // namespace

RowSums join_row_sums(const RowSums& of_parts, RowReduction reduction) {
  RowSums joined;
  at::Tensor factor;
  if (reduction == RowReduction::kSoftmax) {
    // A part without negatives brings -inf; where no part has any, the finite bound keeps -inf -
    // -inf away.
    joined.maximum = of_parts.maximum.amax(0).clamp_min(-1e30);
    factor = at::exp(of_parts.maximum - joined.maximum);
  }
  const auto add = [&](const at::Tensor& sums) {
    if (!sums.defined()) return at::Tensor();
    return (factor.defined() ? sums * factor : sums).sum(0);
  };
  joined.sum = add(of_parts.sum);
  joined.weight_sum = add(of_parts.weight_sum);
  joined.value_sum = add(of_parts.value_sum);
  return joined;
}

at::Tensor negative_log_sum(const RowSums& sums) { return sums.maximum + at::log(sums.sum); }

RowLoss row_loss(const MarginRule& rule, const MarginOutput& margin, const RowSums& sums,
                 const at::Tensor& shift) {
  switch (rule.reduction) {
    case RowReduction::kSoftmax:
      return softmax_loss(margin, sums);
    case RowReduction::kSoftplusSum:
      return softplus_loss(rule, margin, sums, shift);
    case RowReduction::kGatedSum:
      return gated_loss(margin, sums);
  }
  FT_FAIL("unknown row reduction");
}

}  // namespace facetrain
