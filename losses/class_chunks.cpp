#include "losses/class_chunks.h"

#include <algorithm>

namespace facetrain {

ChunkPlan plan_chunks(const ClassShard& shard, const MarginRule& rule, const at::Tensor& factors,
                      int64_t bytes, bool gradients) {
  const int64_t batch = factors.size(0), dim = factors.size(1), group = rule.rows_per_class;
  const int64_t wide = shard.weight.element_size(), factor = factors.element_size();
  const int64_t of_rows = dim * (factor + (gradients ? wide : 0));
  const int64_t of_cosines = batch * (wide + (gradients && factor != wide ? factor : 0));
  const int64_t of_groups = group > 1 ? batch * (2 * wide + 8) : 0;
  const int64_t classes = std::max<int64_t>(1, shard.step_classes());
  int64_t chunk =
      std::clamp<int64_t>(bytes / (group * (of_rows + of_cosines) + of_groups), 1, classes);
  if (chunk >= 16) chunk = chunk / 16 * 16;  // whole blocks are what GEMMs like
  constexpr int64_t kParts = 16;
  const int64_t chunks = (classes + chunk - 1) / chunk;
  return {chunk, shard.weight.is_cpu() ? std::min(kParts, chunks) : 1};
}

ClassChunks::ClassChunks(const ClassShard& shard, const MarginRule& rule, const at::Tensor& factors,
                         int64_t chunk, bool gradients)
    : shard_(shard),
      normalise_(rule.normalise),
      narrow_(factors.scalar_type() != shard.weight.scalar_type()),
      factors_(factors),
      group_(rule.rows_per_class),
      batch_(factors.size(0)),
      size_(chunk) {
  const auto sums = shard.weight.options().requires_grad(false), products = factors.options();
  const int64_t dim = factors.size(1);
  unit_ = at::empty({size_ * group_, dim}, products);
  inverse_ = at::empty({size_ * group_}, sums);
  cosines_ = at::empty({batch_ * size_ * group_}, sums);
  if (!gradients) return;
  if (narrow_) gradient_ = at::empty({batch_ * size_}, products);
  if (normalise_) unit_gradient_ = at::empty({size_ * group_, dim}, sums);
}

void ClassChunks::load(int64_t end) {
  count_ = std::min(size_, end - first_);
  unit_rows(shard_.weight, range(), normalise_, unit(), inverse());
}

at::Tensor ClassChunks::bias() const {
  const at::Tensor& ids = shard_.sampled;
  return ids.defined() ? shard_.bias.index_select(0, ids.narrow(0, first_, count_))
                       : shard_.bias.narrow(0, first_, count_);
}

at::Tensor ClassChunks::cosines() {
  at::Tensor result =
      cosines_.narrow(0, 0, batch_ * count_ * group_).view({batch_, count_ * group_});
  matmul(factors_, unit().t(), result, false);
  if (group_ > 1) std::tie(result, which_) = result.view({batch_, count_, group_}).max(2);
  return shard_.bias.defined() ? result.add_(bias()) : result;
}

at::Tensor ClassChunks::gradient_for(const at::Tensor& cosines) const {
  return narrow_ ? gradient_.narrow(0, 0, batch_ * count_).view({batch_, count_}) : cosines;
}

at::Tensor ClassChunks::by_rows(const at::Tensor& gradient) const {
  if (group_ == 1) return gradient;
  return at::zeros({batch_, count_, group_}, gradient.options())
      .scatter_(2, which_.unsqueeze(2), gradient.unsqueeze(2))
      .view({batch_, count_ * group_});
}

void ClassChunks::write_gradient(const at::Tensor& gradient, const at::Tensor& all_rows,
                                 bool accumulate) const {
  const at::Tensor to = all_rows.narrow(0, first_ * group_, count_ * group_);
  if (!normalise_) return matmul(gradient.t(), factors_, to, accumulate);
  const at::Tensor by_unit = unit_gradient_.narrow(0, 0, count_ * group_);
  matmul(gradient.t(), factors_, by_unit, false);
  project_rows(shard_.weight, range(), inverse(), by_unit, to, accumulate);
}

}  // namespace facetrain
