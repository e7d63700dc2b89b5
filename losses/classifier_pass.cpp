#include "losses/classifier_pass.h"

#include <algorithm>
#include <numeric>

namespace facetrain {
namespace {

constexpr double kSmallestNorm = 1e-12;

bool is_reduced(at::ScalarType type) { return type == at::kBFloat16 || type == at::kHalf; }

// The part of the gathered rows that belongs to this rank.
Slice own_slice(const std::vector<int64_t>& counts, int rank) {
  const int64_t begin = std::accumulate(counts.begin(), counts.begin() + rank, int64_t{0});
  return {begin, begin + counts[rank]};
}
at::Tensor own_rows(const at::Tensor& all, const std::vector<int64_t>& counts, int rank) {
  const Slice own = own_slice(counts, rank);
  return all.narrow(0, own.begin, own.size());
}

// a b, where an undefined b is zero.
void add_product(at::Tensor& sum, const at::Tensor& a, const at::Tensor& b) {
  if (!b.defined() || !a.defined()) return;
  sum = sum.defined() ? sum + a * b : a * b;
}

}  // namespace

ClassifierPass::ClassifierPass(ClassShard shard, Margin& margin, Communicator& comm,
                               MarginInput input, at::Tensor shared_bias, PassSettings settings)
    : shard_(std::move(shard)),
      margin_(margin),
      comm_(comm),
      input_(std::move(input)),
      rule_(margin.rule()),
      shared_bias_(std::move(shared_bias)),
      settings_(settings) {
  FT_CHECK(rule_.bias != Bias::kShared || rule_.reduction == RowReduction::kSoftplusSum,
           "a margin with a shared bias must use the softplus sum: a softmax does not see it");
  if (filtered()) rule_.negative = NegativeRule::kAffineAbove;  // 0 c + 0 above p0
}

kernels::RowRule ClassifierPass::row_rule() const {
  return {rule_.negative,   rule_.reduction,  rule_.negative_a,
          rule_.negative_b, rule_.gate_slope, rule_.gate_centre};
}

void ClassifierPass::gather(const at::Tensor& embeddings, const at::Tensor& labels,
                            const at::Tensor& positions) {
  embedding_type_ = embeddings.scalar_type();
  const at::ScalarType type = shard_.weight.scalar_type();
  FT_CHECK(embedding_type_ != at::kDouble || type == at::kDouble,
           "the classifier's rows are fp32 but the embeddings fp64; convert the classifier too: "
           "to(torch::kFloat64)");
  counts_ = gather_counts(embeddings.size(0), comm_);
  const at::Tensor all =
      gather_rows_detached(embeddings.detach().contiguous(), counts_, comm_).to(type);
  const at::Tensor ids =
      gather_rows_detached(at::stack({labels, positions}, 1).contiguous(), counts_, comm_);
  input_.label = ids.select(1, 0).contiguous();
  input_.position = ids.select(1, 1).contiguous();
  input_.norm = at::linalg_vector_norm(all, 2, at::IntArrayRef{1});
  features_ = rule_.normalise ? all / input_.norm.clamp_min(kSmallestNorm).unsqueeze(1) : all;
  const bool narrow = is_reduced(embedding_type_) && type == at::kFloat && settings_.reduced;
  factors_ = narrow ? features_.to(at::kBFloat16) : features_;
}

// Products of each row with the class rows of its target [B]; what another rank owns is computed
// with some row of ours and left out by the caller, so that no count has to come back from a
// device.
at::Tensor ClassifierPass::target_products() const {
  const int64_t batch = features_.size(0), group = rule_.rows_per_class;
  if (shard_.classes.size() == 0) return at::zeros({batch}, features_.options());
  const at::Tensor local =
      (input_.label - shard_.classes.begin).clamp(0, shard_.classes.size() - 1);
  const at::Tensor places = local.unsqueeze(1) * group + at::arange(group, local.options());
  at::Tensor rows = shard_.weight.index_select(0, places.view({-1})).view({batch, group, -1});
  if (rule_.normalise)
    rows =
        rows / at::linalg_vector_norm(rows, 2, at::IntArrayRef{2}, true).clamp_min(kSmallestNorm);
  const at::Tensor products = (rows * features_.unsqueeze(1)).sum(2).amax(1);
  return shard_.bias.defined() ? products + shard_.bias.index_select(0, local) : products;
}

void ClassifierPass::find_targets() {
  const at::Tensor local = input_.label - shard_.classes.begin;
  owned_ = local.ge(0).logical_and(local.lt(shard_.classes.size()));
  at::Tensor place = local;
  if (shard_.sampled.defined() && shard_.sampled.size(0) > 0) {
    place = at::searchsorted(shard_.sampled, local).clamp_max(shard_.sampled.size(0) - 1);
    owned_ = owned_.logical_and(shard_.sampled.index_select(0, place).eq(local));
  } else if (shard_.sampled.defined()) {
    owned_ = at::zeros_like(owned_);
  }
  rows_.target = at::where(owned_, place, at::full_like(place, -1));
  const at::Tensor none = at::zeros_like(input_.norm);
  const at::Tensor found =
      at::stack({at::where(owned_, target_products(), none), owned_.to(none.scalar_type())});
  comm_.all_reduce(found, ReduceOp::kSum).wait();
  // A target that nobody owns makes the loss non-finite: the step is skipped instead of being
  // wrong.
  input_.target = at::where(found[1] == 1, found[0], at::full_like(none, NAN));
}

ChunkPlan ClassifierPass::plan(bool gradients) const {
  return plan_chunks(shard_, rule_, factors_, settings_.workspace_bytes, gradients);
}

// Sums over this rank's negatives.
RowSums ClassifierPass::sum_own_negatives(const kernels::RowRule& rule, const RowVectors& rows,
                                          Wanted wanted) const {
  const ChunkPlan cut = plan(false);
  const int64_t batch = features_.size(0);
  const RowSums all = RowSums::start(cut.parts * batch, features_.options());
  const auto of_part = [&](const at::Tensor& sums, int64_t part, bool asked) {
    return asked ? sums.narrow(0, part * batch, batch) : at::Tensor();
  };
  for_chunks(shard_, rule_, factors_, cut, false, [&](ClassChunks& chunks, int64_t part) {
    RowSums sums{of_part(all.maximum, part, true), of_part(all.sum, part, true),
                 of_part(all.weight_sum, part, wanted.weights),
                 of_part(all.value_sum, part, wanted.values),
                 of_part(all.plain_sum, part, wanted.plain)};
    add_row_sums(chunks.cosines(), chunks.first(), rule, rows, sums);
  });
  const auto by_part = [&](const at::Tensor& sums, bool asked) {
    return asked ? sums.view({cut.parts, batch}) : at::Tensor();
  };
  return join_row_sums(
      {by_part(all.maximum, true), by_part(all.sum, true), by_part(all.weight_sum, wanted.weights),
       by_part(all.value_sum, wanted.values), by_part(all.plain_sum, wanted.plain)},
      rule.reduction);
}

// Sums over the negatives of all ranks.
RowSums ClassifierPass::sum_negatives(const kernels::RowRule& rule, const RowVectors& rows,
                                      Wanted wanted) {
  const RowSums own = sum_own_negatives(rule, rows, wanted);
  std::vector<at::Tensor> there;
  for (const at::Tensor* sums :
       {&own.maximum, &own.sum, &own.weight_sum, &own.value_sum, &own.plain_sum})
    if (sums->defined()) there.push_back(*sums);
  const at::Tensor mine = at::stack(there);
  const at::Tensor all = at::empty({comm_.size(), mine.size(0), mine.size(1)}, mine.options());
  comm_.all_gather(all, mine).wait();
  int64_t next = 0;
  const auto of_ranks = [&](const at::Tensor& sums) {
    return sums.defined() ? all.select(1, next++) : at::Tensor();
  };
  RowSums joined{of_ranks(own.maximum), of_ranks(own.sum), of_ranks(own.weight_sum),
                 of_ranks(own.value_sum), of_ranks(own.plain_sum)};
  return join_row_sums(joined, rule.reduction);
}

void ClassifierPass::run_prepass() {
  if (rule_.prepass == Prepass::kNone) return;
  const at::Tensor parameter = margin_.prepass_parameter(input_).contiguous();
  if (rule_.prepass == Prepass::kLogSumExp) {
    RowVectors rows;
    rows.scale = parameter;
    rows.target = rows_.target;
    rows.p0 = rows_.p0;
    kernels::RowRule rule;
    if (filtered()) rule.negative = NegativeRule::kAffineAbove;
    input_.prepass_sum = negative_log_sum(sum_negatives(rule, rows, {}));
    return;
  }
  const ChunkPlan cut = plan(false);
  const at::Tensor parts = at::zeros({cut.parts, 2, features_.size(0)}, features_.options());
  for_chunks(shard_, rule_, factors_, cut, false, [&](ClassChunks& chunks, int64_t part) {
    add_selected(chunks.cosines(), chunks.first(), parameter, rows_.target, parts[part][0],
                 parts[part][1]);
  });
  const at::Tensor both = parts.sum(0);
  comm_.all_reduce(both, ReduceOp::kSum).wait();
  input_.prepass_sum = both[0];
  input_.prepass_count = both[1];
}

at::Tensor ClassifierPass::forward(const at::Tensor& embeddings, const at::Tensor& labels,
                                   const at::Tensor& positions) {
  gather(embeddings, labels, positions);
  find_targets();
  if (filtered()) rows_.p0 = at::full_like(input_.norm, settings_.filter_above);
  run_prepass();
  margin_output_ = margin_.apply(input_);
  rows_.scale = margin_output_.scale.contiguous();
  if (!filtered()) rows_.p0 = margin_output_.p0;
  rows_.p1 = margin_output_.p1;
  if (shared_bias_.defined())
    rows_.shift =
        shared_bias_.detach().to(features_.scalar_type()).expand({features_.size(0)}).contiguous();
  RowSums sums = sum_negatives(row_rule(), rows_,
                               {.weights = shared_bias_.defined(),
                                .values = margin_output_.dscale_dnorm.defined(),
                                .plain = settings_.entropy.label_smoothing > 0});
  if (settings_.unpg_whisker > 0) {
    pairs_.emplace(features_, input_.label, settings_.unpg_whisker);
    sums = pairs_->add_to(sums, rows_.scale);
  }
  row_ = row_loss(rule_, margin_output_, sums, rows_.shift, settings_.entropy);
  // Zero, or NaN where the norm is not finite: an infinite norm would make finite cosines of zero.
  at::Tensor losses = row_.loss + (input_.norm - input_.norm);
  if (margin_output_.penalty.defined()) losses = losses + margin_output_.penalty;
  return own_rows(losses, counts_, comm_.rank()).clone();
}

// Σ over this rank's classes of gradient by cosine times unit row [B, D]; writes the shard's
// gradient on the way.
at::Tensor ClassifierPass::gradient_by_features(const at::Tensor& row_weight,
                                                const ShardGradient& to) {
  const at::Tensor coefficient = (row_weight * row_.coefficient).contiguous();
  const at::Tensor constant =
      row_.constant.defined() ? (row_weight * row_.constant).contiguous() : at::Tensor();
  const at::Tensor by_target = (row_weight * row_.dphi * margin_output_.dphi_dcos).contiguous();
  const ChunkPlan cut = plan(true);
  const at::Tensor by_features =
      at::zeros({cut.parts, features_.size(0), features_.size(1)}, features_.options());
  for_chunks(shard_, rule_, factors_, cut, true, [&](ClassChunks& chunks, int64_t part) {
    const at::Tensor cosines = chunks.cosines();
    const at::Tensor by_class = chunks.gradient_for(cosines);
    row_gradients(cosines, by_class, chunks.first(), row_rule(), rows_, coefficient, row_.log_sum,
                  by_target, constant);
    const at::Tensor by_row = chunks.by_rows(by_class);
    matmul(by_row, chunks.unit(), by_features[part], true);
    if (to.weight.defined()) chunks.write_gradient(by_row, to.weight, to.accumulate);
    if (to.bias.defined()) {
      const at::Tensor sum = by_class.sum(at::IntArrayRef{0}, false, features_.scalar_type());
      at::Tensor bias = to.bias.narrow(0, chunks.first(), chunks.count());
      if (to.accumulate)
        bias.add_(sum);
      else
        bias.copy_(sum);
    }
  });
  return cut.parts == 1 ? by_features[0] : by_features.sum(0);
}

// Through the normalisation, for this rank's rows.
at::Tensor ClassifierPass::gradient_by_embeddings(const at::Tensor& by_features,
                                                  const at::Tensor& by_norm) const {
  const int rank = comm_.rank();
  at::Tensor gradient = by_features;
  const at::Tensor own = own_rows(features_, counts_, rank);
  const at::Tensor norm =
      own_rows(input_.norm, counts_, rank).clamp_min(kSmallestNorm).unsqueeze(1);
  if (rule_.normalise) gradient = (gradient - own * (own * gradient).sum(1, true)) / norm;
  if (by_norm.defined()) {
    const at::Tensor direction = rule_.normalise ? own : own / norm;
    gradient = gradient + direction * own_rows(by_norm, counts_, rank).unsqueeze(1);
  }
  return (gradient * comm_.size()).to(embedding_type_);
}

at::Tensor ClassifierPass::backward(const at::Tensor& gradient, const ShardGradient& to) {
  const at::Tensor incoming =
      gather_rows_detached(gradient.to(features_.scalar_type()).contiguous(), counts_, comm_);
  const at::Tensor row_weight = incoming / comm_.size();
  at::Tensor by_features = scatter_rows_sum(gradient_by_features(row_weight, to), counts_, comm_);
  if (pairs_)
    by_features = by_features + pairs_->gradient(row_weight * row_.coefficient, row_.log_sum,
                                                 own_slice(counts_, comm_.rank()));
  at::Tensor by_norm;
  add_product(by_norm, row_.dphi, margin_output_.dphi_dnorm);
  add_product(by_norm, row_.dscale, margin_output_.dscale_dnorm);
  add_product(by_norm, at::ones_like(row_weight), margin_output_.dpenalty_dnorm);
  if (by_norm.defined()) by_norm = by_norm * row_weight;
  // Equal on all ranks, so the reducer's average leaves it exact.
  if (shared_bias_.defined())
    shared_bias_gradient_ =
        (row_weight * row_.dshift).sum().reshape({1}).to(shared_bias_.scalar_type());
  return gradient_by_embeddings(by_features, by_norm);
}

}  // namespace facetrain
