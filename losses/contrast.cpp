#include "losses/contrast.h"

#include <ATen/ATen.h>

#include <limits>

#include "core/check.h"

namespace facetrain {
namespace {

void check_columns(const at::Tensor& rows, const at::Tensor& columns, int64_t first) {
  FT_CHECK(first >= 0 && first + rows.size(0) <= columns.size(0),
           "wanted the {} own rows among the {} of all ranks, found their first at {}",
           rows.size(0), columns.size(0), first);
}

at::Tensor own_columns(const at::Tensor& rows, int64_t first) {
  return at::arange(first, first + rows.size(0), rows.options().dtype(at::kLong));
}

// [b, B] products over the temperature; -inf in each row's own column.
at::Tensor without_itself(const at::Tensor& own, const at::Tensor& all, int64_t first,
                          double temperature) {
  const at::Tensor logits = own.matmul(all.t()) / temperature;
  return logits.scatter(1, own_columns(own, first).unsqueeze(1),
                        -std::numeric_limits<double>::infinity());
}

}  // namespace

at::Tensor info_nce(const at::Tensor& queries, const at::Tensor& keys, int64_t first,
                    double temperature) {
  check_columns(queries, keys, first);
  return at::cross_entropy_loss(queries.matmul(keys.t()) / temperature, own_columns(queries, first),
                                {}, at::Reduction::None);
}

at::Tensor nt_xent(const at::Tensor& own, const at::Tensor& all, const at::Tensor& others,
                   int64_t first, double temperature) {
  check_columns(own, all, first);
  check_columns(own, others, first);
  const at::Tensor logits = at::cat(
      {own.matmul(others.t()) / temperature, without_itself(own, all, first, temperature)}, 1);
  return at::cross_entropy_loss(logits, own_columns(own, first), {}, at::Reduction::None);
}

at::Tensor negative_cosine(const at::Tensor& prediction, const at::Tensor& target) {
  return -at::cosine_similarity(prediction, target.detach(), 1, 1e-8);
}

at::Tensor koleo(const at::Tensor& own, const at::Tensor& all, int64_t first) {
  check_columns(own, all, first);
  FT_CHECK(all.size(0) >= 2, "koleo: wanted two rows or more, found {}", all.size(0));
  at::Tensor nearest;
  {
    const at::NoGradGuard no_grad;
    nearest = without_itself(own, all, first, 1).argmax(1);
  }
  const double tiny = 1e-8;  // as in DINOv2: added to the difference and to the distance
  const at::Tensor distance = (own - all.index_select(0, nearest) + tiny).square().sum(1).sqrt();
  return -(distance + tiny).log();
}

}  // namespace facetrain
