#include "losses/sinkhorn.h"

#include <ATen/ATen.h>

#include <limits>

#include "core/check.h"

namespace facetrain {
namespace {

// Of each prototype over the rows of all ranks, [S, 1, K].
at::Tensor over_ranks(at::Tensor values, ReduceOp op, Communicator& comm) {
  values = values.contiguous();
  comm.all_reduce(values, op).wait();
  return values;
}

}  // namespace

at::Tensor sinkhorn(const at::Tensor& scores, double epsilon, int64_t rounds, Communicator& comm) {
  FT_CHECK(scores.dim() == 3,
           "sinkhorn: wanted scores [sets, rows, prototypes], found {} dimensions", scores.dim());
  FT_CHECK(epsilon > 0 && rounds > 0, "sinkhorn: wanted epsilon > 0 and rounds > 0, found {:g}, {}",
           epsilon, rounds);
  const at::NoGradGuard no_grad;
  const auto type = scores.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  at::Tensor log = scores.detach().to(type) / epsilon;
  const double tiny = std::numeric_limits<float>::min();
  for (int64_t round = 0; round < rounds; ++round) {
    // After the first round the largest entry of a row is at least 1 / K, so only a prototype that
    // nobody wants can vanish; it then counts as `tiny`.
    at::Tensor shift;
    if (round == 0) {
      shift = over_ranks(log.amax(1, /*keepdim=*/true), ReduceOp::kMax, comm);
      log.sub_(shift);
    }
    const at::Tensor mass = over_ranks(log.exp().sum(1, /*keepdim=*/true), ReduceOp::kSum, comm);
    log = at::log_softmax(log.sub_(mass.clamp_min_(tiny).log_()), -1);
  }
  return log.exp_();
}

}  // namespace facetrain
