#include "losses/pair_negatives.h"

#include <cmath>

#include "core/torch.h"
#include "losses/row_loss.h"

namespace facetrain {
namespace {

// At `share` (n - 1) of the ascending values [n], n >= 1.
at::Tensor interpolated(const at::Tensor& ascending, double share) {
  const int64_t last = ascending.size(0) - 1;
  const double place = share * static_cast<double>(last);
  const auto below = static_cast<int64_t>(std::floor(place));
  const at::Tensor low = ascending[below], high = ascending[std::min(below + 1, last)];
  return low + (place - std::floor(place)) * (high - low);
}

}  // namespace

at::Tensor inside_whiskers(const at::Tensor& values, double whisker) {
  if (values.numel() == 0) return at::ones_like(values, at::kBool);
  const at::Tensor ascending = std::get<0>(values.sort());
  const at::Tensor q1 = interpolated(ascending, 0.25), q3 = interpolated(ascending, 0.75);
  const at::Tensor reach = whisker * (q3 - q1);
  return values.ge(q1 - reach).logical_and(values.le(q3 + reach));
}

PairNegatives::PairNegatives(const at::Tensor& features, const at::Tensor& labels, double whisker)
    : features_(features) {
  const int64_t batch = features.size(0);
  const at::Tensor all = at::empty({batch, batch}, features.options());
  matmul(features, features.t(), all, false);
  const at::Tensor different = labels.unsqueeze(1).ne(labels.unsqueeze(0)).triu(1);
  place_ = different.view({-1}).nonzero().view({-1});
  cosine_ = all.view({-1}).index_select(0, place_);
  const at::Tensor kept = inside_whiskers(cosine_, whisker);
  place_ = place_.masked_select(kept);
  cosine_ = cosine_.masked_select(kept);
}

RowSums PairNegatives::add_to(const RowSums& sums, const at::Tensor& scale) {
  std::tie(scales_, which_, std::ignore) = at::_unique2(scale, true, true);
  const RowSums pairs = RowSums::start(scales_.size(0), scale.options());
  for (int64_t u = 0; u < scales_.size(0) && size() > 0; ++u) {
    const auto of_scale = [&](const at::Tensor& all) { return all.narrow(0, u, 1); };
    RowVectors row;
    row.scale = of_scale(scales_);
    RowSums one{of_scale(pairs.maximum), of_scale(pairs.sum), {}, of_scale(pairs.value_sum), {}};
    add_row_sums(cosine_.view({1, -1}), 0, {}, row, one);
  }
  maximum_ = pairs.maximum;
  const auto both = [&](const at::Tensor& classes, const at::Tensor& of_scales) {
    if (!classes.defined()) return at::Tensor();
    return at::stack({classes, of_scales.index_select(0, which_)});
  };
  RowSums joined = join_row_sums({both(sums.maximum, pairs.maximum),
                                  both(sums.sum, pairs.sum),
                                  {},
                                  both(sums.value_sum, pairs.value_sum),
                                  {}},
                                 RowReduction::kSoftmax);
  joined.plain_sum = sums.plain_sum;
  return joined;
}

at::Tensor PairNegatives::gradient(const at::Tensor& coefficient, const at::Tensor& log_sum,
                                   Slice rows) const {
  const int64_t batch = features_.size(0);
  const at::Tensor result = at::empty({rows.size(), features_.size(1)}, features_.options());
  if (size() == 0) return result.zero_();
  // Σ_b coefficient_b exp(s q - log_sum_b) over the rows of scale s is one number times
  // exp(s q - maximum).
  const at::Tensor share = coefficient * at::exp(maximum_.index_select(0, which_) - log_sum);
  const at::Tensor by_cosine = at::zeros_like(cosine_), one = at::empty_like(cosine_);
  for (int64_t u = 0; u < scales_.size(0); ++u) {
    RowVectors row;
    row.scale = scales_.narrow(0, u, 1);
    const at::Tensor sum = (which_.eq(u) * share).sum().view({1});
    row_gradients(cosine_.view({1, -1}), one.view({1, -1}), 0, {}, row, sum,
                  maximum_.narrow(0, u, 1), {});
    by_cosine.add_(one);
  }
  const at::Tensor by_pair = at::zeros({batch * batch}, features_.options());
  by_pair.index_copy_(0, place_, by_cosine);
  const at::Tensor square = by_pair.view({batch, batch});
  const at::Tensor own =
      square.narrow(0, rows.begin, rows.size()) + square.narrow(1, rows.begin, rows.size()).t();
  matmul(own.contiguous(), features_, result, false);
  return result;
}

}  // namespace facetrain
