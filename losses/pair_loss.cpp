#include "losses/pair_loss.h"

#include <numeric>

#include "comm/collectives.h"
#include "core/torch.h"

namespace facetrain {
namespace {

constexpr double kSmallestNorm = 1e-12;

// This rank's part of what all ranks hold together, [B, ...].
at::Tensor own_rows(const at::Tensor& all, const PairLabels& labels, int rank) {
  const auto begin = std::accumulate(labels.rows.begin(), labels.rows.begin() + rank, int64_t{0});
  return all.narrow(0, begin, labels.rows[static_cast<size_t>(rank)]);
}

// Unit rows of all ranks [B, D].
at::Tensor gather_unit_rows(const at::Tensor& embeddings, const PairLabels& labels,
                            Communicator& comm) {
  const at::Tensor wide = embeddings.to(at::promote_types(embeddings.scalar_type(), at::kFloat));
  const at::Tensor norm = at::linalg_vector_norm(wide, 2, at::IntArrayRef{1}, /*keepdim=*/true);
  return gather_rows(wide / norm.clamp_min(kSmallestNorm), labels.rows, comm);
}

PairInput make_input(const at::Tensor& all, const PairLabels& labels, int rank) {
  const at::Tensor index = at::arange(all.size(0), labels.identity.options());
  const auto against_all = [&](const at::Tensor& column) {
    return own_rows(column, labels, rank).unsqueeze(1).eq(column);
  };
  const at::Tensor own_identity = against_all(labels.identity);
  PairInput input;
  input.cosine = own_rows(all, labels, rank).mm(all.t());
  input.same = own_identity.logical_and(against_all(index).logical_not());
  input.other = own_identity.logical_not();
  return input;
}

}  // namespace

at::Tensor masked_mean(const at::Tensor& values, const at::Tensor& mask) {
  return at::where(mask, values, 0).sum(1) / mask.sum(1).clamp_min(1);
}

at::Tensor masked_logsumexp(const at::Tensor& values, const at::Tensor& mask) {
  return at::where(mask, values, -1e30).logsumexp(1);
}

PairLabels gather_pair_labels(const at::Tensor& labels, Communicator& comm) {
  PairLabels result;
  result.rows = gather_counts(labels.size(0), comm);
  result.identity = gather_rows_detached(labels.contiguous(), result.rows, comm);
  const auto [least, inverse, frequency] = [&] {
    auto [values, places, counts] = at::_unique2(result.identity, true, true, true);
    return std::tuple(values[0], places, counts);
  }();
  FT_CHECK(least.item<int64_t>() >= 0,
           "a pair loss wants labels of at least 0, found {}: every row must have an identity",
           least.item<int64_t>());
  result.paired = frequency.index_select(0, inverse).gt(1);
  result.anchors = own_rows(result.paired, result, comm.rank()).sum().item<int64_t>();
  result.anchors_of_ranks = result.paired.sum().item<int64_t>();
  return result;
}

PairSums sum_pair_loss(const PairLoss& loss, const at::Tensor& embeddings, const PairLabels& labels,
                       Communicator& comm) {
  // Distances of near rows do not survive the narrow types of autocast.
  const c10::impl::ExcludeDispatchKeyGuard full_precision(c10::autocast_dispatch_keyset);
  const at::Tensor all = gather_unit_rows(embeddings, labels, comm);
  const PairInput input = make_input(all, labels, comm.rank());
  const at::Tensor paired = own_rows(labels.paired, labels, comm.rank());
  const auto sum = [&](const at::Tensor& rows) { return at::where(paired, rows, 0).sum(); };
  // What mining left out must be seen too when it is not finite.
  const at::Tensor finite = input.cosine.sum() * 0;
  const at::Tensor cosine = input.cosine.detach();
  return {sum(loss.apply(input)) + finite, sum(masked_mean(cosine, input.same)),
          sum(masked_mean(cosine, input.other))};
}

}  // namespace facetrain
