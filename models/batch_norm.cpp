#include "models/batch_norm.h"

#include <cmath>
#include <tuple>
#include <utility>

#include "core/check.h"

namespace facetrain {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct ReducerHolder : torch::CustomClassHolder {
  explicit ReducerHolder(std::shared_ptr<StatisticsReducer> r) : reducer(std::move(r)) {}
  std::shared_ptr<StatisticsReducer> reducer;
};

// Applies given statistics: (x - mean) / sqrt(variance + eps) * weight + bias, in one pass over x.
Tensor normalise(const Tensor& x, const Tensor& weight, const Tensor& bias, const Tensor& mean,
                 const Tensor& variance, double eps) {
  return std::get<0>(
      at::native_batch_norm(x, weight, bias, mean, variance, /*training=*/false, 0.0, eps));
}

struct GlobalStatistics {
  Tensor mean, variance;  // [C], biased; fp32 or fp64
  double count;           // values a channel over all ranks
};

// One reduction. Each rank's mean and centred square sum are computed in two passes over its rows
// (as PyTorch does); their merge by Σ n, Σ n·mean, Σ (M2 + n·mean²) in fp64 loses (mean /
// deviation)² · 1e-16, far below the fp32 of x.
GlobalStatistics reduce_statistics(const Tensor& x, at::TensorOptions options,
                                   StatisticsReducer& reducer) {
  const int64_t channels = x.size(1);
  const double rows = static_cast<double>(x.numel()) / static_cast<double>(channels);
  const auto scratch = torch::zeros({2, channels}, options);  // gives half-width inputs wide sums
  const auto [mean, variance] = at::batch_norm_update_stats(x, scratch[0], scratch[1], 0.0);
  const auto wide_mean = mean.to(torch::kDouble);
  auto sums =
      torch::cat({wide_mean * rows, (variance.to(torch::kDouble) + wide_mean.square()) * rows,
                  torch::full({1}, rows, wide_mean.options())});
  reducer.sum(sums);
  const double count = sums[2 * channels].item<double>();
  FT_CHECK(count > 1,
           "batch norm wants more than one value a channel over all ranks, found {}: "
           "raise data.batch_size, or put the layer into eval mode",
           count);
  const auto global_mean = sums.narrow(0, 0, channels) / count;
  const auto global_variance =
      (sums.narrow(0, channels, channels) / count - global_mean.square()).clamp_min_(0);
  return {global_mean.to(options.dtype()), global_variance.to(options.dtype()), count};
}

// y = (x - mean) / sqrt(variance + eps) * weight + bias with the statistics of all ranks' rows;
// mean and variance are functions of every rank's x, so the backward needs Σ dy and Σ dy·x̂ over
// ranks once more. The gradients of weight and bias stay local: the gradient reducer adds those of
// the other ranks.
class SynchronisedNorm : public torch::autograd::Function<SynchronisedNorm> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x, const Tensor& weight,
                        const Tensor& bias, const Tensor& mean, const Tensor& variance,
                        double count, double eps,
                        const std::shared_ptr<StatisticsReducer>& reducer) {
    context->save_for_backward({x, weight, mean, variance});
    context->saved_data["count"] = count;
    context->saved_data["eps"] = eps;
    context->saved_data["reducer"] =
        c10::IValue::make_capsule(c10::make_intrusive<ReducerHolder>(reducer));
    return normalise(x, weight, bias, mean, variance, eps);
  }

  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto saved = context->get_saved_variables();
    const auto &x = saved[0], &weight = saved[1], &mean = saved[2], &variance = saved[3];
    const double eps = context->saved_data["eps"].toDouble();
    const double count = context->saved_data["count"].toDouble();
    const auto reducer = c10::static_intrusive_pointer_cast<ReducerHolder>(
        context->saved_data["reducer"].toCapsule());

    // CUDA wants batch statistics that are defined, though it uses none of them here.
    const auto none = at::empty({0}, mean.options());
    // With the statistics held fixed: dy·w/σ, and the local sums Σ dy·x̂ and Σ dy.
    auto [direct, grad_weight, grad_bias] =
        at::native_batch_norm_backward(gradients[0], x, weight, mean, variance, none, none,
                                       /*train=*/false, eps, {true, true, true});
    auto sums = torch::cat({grad_weight, grad_bias}).to(torch::kDouble);
    reducer->reducer->sum(sums);
    const auto average = (sums / count).to(mean.scalar_type()).chunk(2);
    // What flows through the statistics: w/σ · (x̂ · avg(dy·x̂) + avg(dy)), itself a normalisation of
    // x.
    const auto slope = weight * (variance + eps).rsqrt();
    const auto through = normalise(x, slope * average[0], slope * average[1], mean, variance, eps);
    return {direct.sub_(through), grad_weight, grad_bias, {}, {}, {}, {}, {}};
  }
};

}  // namespace

BatchNormImpl::BatchNormImpl(int64_t channels, double eps, double momentum, bool affine)
    : eps_(eps), momentum_(momentum) {
  if (affine) {
    weight = register_parameter("weight", torch::ones({channels}));
    bias = register_parameter("bias", torch::zeros({channels}));
  }
  running_mean = register_buffer("running_mean", torch::zeros({channels}));
  running_var = register_buffer("running_var", torch::ones({channels}));
  num_batches_tracked = register_buffer("num_batches_tracked", torch::zeros({}, torch::kLong));
}

Tensor BatchNormImpl::forward(const Tensor& x) {
  FT_CHECK(x.dim() >= 2 && x.size(1) == running_mean.size(0),
           "batch norm over {} channels cannot take an input of shape [{}]", running_mean.size(0),
           fmt::join(x.sizes(), ", "));
  if (!is_training())
    return at::batch_norm(x, weight, bias, running_mean, running_var, false, momentum_, eps_, true);
  return reducer_ ? synchronised_forward(x) : local_forward(x);
}

Tensor BatchNormImpl::local_forward(const Tensor& x) {
  FT_CHECK(x.numel() > x.size(1),
           "batch norm wants more than one value a channel in training, found an input of shape "
           "[{}]: raise data.batch_size, or use model.batch_norm=sync",
           fmt::join(x.sizes(), ", "));
  // PyTorch's own kernel, and with momentum 1 its update leaves exactly this batch's statistics.
  const auto statistics = torch::zeros({2, x.size(1)}, running_mean.options());
  auto y = at::batch_norm(x, weight, bias, statistics[0], statistics[1], true, 1.0, eps_, true);
  keep(statistics);
  return y;
}

Tensor BatchNormImpl::synchronised_forward(const Tensor& x) {
  GlobalStatistics all;
  {
    const torch::NoGradGuard no_grad;
    all = reduce_statistics(x.detach(), running_mean.options(), *reducer_);
  }
  const auto scale = weight.defined() ? weight : torch::ones_like(running_mean);
  const auto shift = bias.defined() ? bias : torch::zeros_like(running_mean);
  auto y =
      SynchronisedNorm::apply(x, scale, shift, all.mean, all.variance, all.count, eps_, reducer_);
  keep(torch::stack({all.mean, all.variance * (all.count / (all.count - 1))}));
  return y;
}

void BatchNormImpl::keep(const Tensor& statistics) {
  const torch::NoGradGuard no_grad;
  if (pending_batches_++ == 0)
    pending_ = statistics * momentum_;  // a copy: the backward still holds the statistics
  else
    pending_.mul_(1 - momentum_).add_(statistics, momentum_);
}

void BatchNormImpl::collect(std::vector<Tensor>& averaged) {
  if (pending_batches_ > 0 && !reducer_) averaged.push_back(pending_);
}

void BatchNormImpl::commit() {
  if (pending_batches_ == 0) return;
  const torch::NoGradGuard no_grad;
  const double kept = std::pow(1 - momentum_, static_cast<double>(pending_batches_));
  running_mean.mul_(kept).add_(pending_[0]);
  running_var.mul_(kept).add_(pending_[1]);
  num_batches_tracked.add_(pending_batches_);
  discard();
}

void BatchNormImpl::discard() {
  pending_batches_ = 0;
  pending_ = Tensor();
}

void set_batch_norm_reducer(torch::nn::Module& module, std::shared_ptr<StatisticsReducer> reducer) {
  for (const auto& child : module.modules())
    if (auto* norm = dynamic_cast<BatchNormImpl*>(child.get())) norm->set_reducer(reducer);
}

}  // namespace facetrain
