#include "losses/row_loss.h"

namespace facetrain {
namespace {

at::Tensor log_one_plus_exp(const at::Tensor& x) { return at::logaddexp(at::zeros_like(x), x); }

// The derivatives of a row's loss by its logits: `target` for the own class, and for another
// coefficient p_j - constant, with constant zero for a pair negative.
struct ByLogits {
  at::Tensor target, coefficient, constant;
};

void smooth_labels(const MarginOutput& margin, const RowSums& sums, const CrossEntropy& options,
                   at::Tensor& loss, ByLogits& by) {
  const double share = options.label_smoothing / static_cast<double>(options.classes);
  const double others = static_cast<double>(options.classes - 1);
  // H = log Z - l_y + share Σ_S (l_y - l_j)
  loss = loss + share * margin.scale * (others * margin.phi - sums.plain_sum);
  by.target = by.target + share * others;
  by.constant = at::full_like(loss, share);
}

// `missing`: 1 - p_y. With H the entropy, d(1 - p)^γ = -γ (1 - p)^(γ - 1) dp, where dp / dl_y =
// p (1 - p) and dp / dl_j = -p p_j.
void weigh_by_focus(double gamma, const at::Tensor& missing, at::Tensor& loss, ByLogits& by) {
  // A row without error left: 1 / (1 - p) must stay finite, its products with p_j <= 1 - p are.
  const at::Tensor q = missing.clamp_min(1e-30);
  const at::Tensor weight = q.pow(gamma);
  const at::Tensor through_p = gamma * weight / q * (1 - missing) * loss;
  loss = weight * loss;
  by.target = weight * by.target - through_p * missing;
  by.coefficient = weight + through_p;
  if (by.constant.defined()) by.constant = weight * by.constant;
}

RowLoss softmax_loss(const MarginOutput& margin, const RowSums& sums, const CrossEntropy& options) {
  const at::Tensor logit = margin.scale * margin.phi;
  const at::Tensor excess = negative_log_sum(sums) - logit;
  const at::Tensor missing = at::sigmoid(excess);  // 1 - p_y
  RowLoss row;
  row.loss = log_one_plus_exp(excess);
  row.log_sum = logit + row.loss;
  ByLogits by{-missing, at::ones_like(missing), {}};
  if (options.label_smoothing > 0) smooth_labels(margin, sums, options, row.loss, by);
  if (options.focal_gamma > 0) weigh_by_focus(options.focal_gamma, missing, row.loss, by);
  row.coefficient = by.coefficient * margin.scale;
  row.dphi = by.target * margin.scale;
  if (by.constant.defined()) row.constant = by.constant * margin.scale;
  if (sums.value_sum.defined()) {
    row.dscale = by.target * margin.phi +
                 by.coefficient * sums.value_sum * at::exp(sums.maximum - row.log_sum);
    if (by.constant.defined()) row.dscale = row.dscale - by.constant * sums.plain_sum;
  }
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

RowLoss unweighted_loss(const MarginRule& rule, const MarginOutput& margin, const RowSums& sums,
                        const at::Tensor& shift, const CrossEntropy& options) {
  switch (rule.reduction) {
    case RowReduction::kSoftmax:
      return softmax_loss(margin, sums, options);
    case RowReduction::kSoftplusSum:
      return softplus_loss(rule, margin, sums, shift);
    case RowReduction::kGatedSum:
      return gated_loss(margin, sums);
  }
  FT_FAIL("unknown row reduction");
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
  if (of_parts.plain_sum.defined()) joined.plain_sum = of_parts.plain_sum.sum(0);
  return joined;
}

at::Tensor negative_log_sum(const RowSums& sums) { return sums.maximum + at::log(sums.sum); }

RowLoss row_loss(const MarginRule& rule, const MarginOutput& margin, const RowSums& sums,
                 const at::Tensor& shift, const CrossEntropy& options) {
  RowLoss row = unweighted_loss(rule, margin, sums, shift, options);
  if (margin.weight.defined())
    for (at::Tensor* part :
         {&row.loss, &row.coefficient, &row.constant, &row.dphi, &row.dscale, &row.dshift})
      if (part->defined()) *part = *part * margin.weight;
  return row;
}

}  // namespace facetrain
