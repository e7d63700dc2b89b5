#include "models/layers.h"

#include "core/check.h"
#include "core/step_context.h"

namespace facetrain {
namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

Tensor every(const Tensor& x, int64_t stride) {
  return x.slice(2, 0, c10::nullopt, stride).slice(3, 0, c10::nullopt, stride);
}

// Autograd's own slicing would return its gradient in NCHW, which turns the rest of a channels_last
// backward over.
class TakeEvery : public torch::autograd::Function<TakeEvery> {
 public:
  static Tensor forward(AutogradContext* context, const Tensor& x, int64_t stride) {
    context->saved_data["sizes"] = x.sizes().vec();
    context->saved_data["stride"] = stride;
    context->saved_data["format"] = static_cast<int64_t>(x.suggest_memory_format());
    return every(x, stride).contiguous(x.suggest_memory_format());
  }
  static variable_list backward(AutogradContext* context, variable_list gradients) {
    const auto format = static_cast<at::MemoryFormat>(context->saved_data["format"].toInt());
    auto gradient =
        torch::empty(context->saved_data["sizes"].toIntVector(), gradients[0].options(), format)
            .zero_();
    every(gradient, context->saved_data["stride"].toInt()).copy_(gradients[0]);
    return {gradient, {}};
  }
};

// 0 or 1 / (1 - p) for `columns` draws of every sample, [B, columns], in x's type.
Tensor kept_scale(const Tensor& x, int64_t columns, double probability, const std::string& name) {
  const auto draws = sample_uniform(columns, name);
  FT_CHECK(draws.size(0) == x.size(0), "'{}': {} samples in the step's positions, {} in the input",
           name, draws.size(0), x.size(0));
  return draws.ge(probability).to(x.scalar_type()).mul_(1 / (1 - probability));
}

Tensor convolve(const Tensor& x, const Conv2dImpl& layer, int64_t stride) {
  const int64_t padding = layer.options.padding;
  return at::conv2d(x, layer.weight, layer.bias, {stride, stride}, {padding, padding}, {1, 1},
                    layer.options.groups);
}

void check_probability(double probability, const std::string& name) {
  FT_CHECK(probability >= 0 && probability < 1, "'{}': wanted a probability in [0, 1), found {}",
           name, probability);
}

}  // namespace

LinearImpl::LinearImpl(int64_t in, int64_t out, bool with_bias)
    : weight(register_parameter("weight", torch::zeros({out, in}))) {
  if (with_bias) bias = register_parameter("bias", torch::zeros({out}));
}
Tensor LinearImpl::forward(const Tensor& x) { return at::linear(x, weight, bias); }

Conv2dImpl::Conv2dImpl(const ConvOptions& o)
    : weight(
          register_parameter("weight", torch::zeros({o.out, o.in / o.groups, o.kernel, o.kernel}))),
      options(o) {
  if (o.bias) bias = register_parameter("bias", torch::zeros({o.out}));
}
Tensor Conv2dImpl::forward(const Tensor& x) {
  const auto& o = options;
  if (o.kernel == 1 && o.stride > 1 && o.padding == 0)
    return convolve(take_every(x, o.stride), *this, 1);
  return convolve(x, *this, o.stride);
}

PReluImpl::PReluImpl(int64_t channels)
    : weight(register_parameter("weight", torch::full({channels}, 0.25))) {}
Tensor PReluImpl::forward(const Tensor& x) { return at::prelu(x, weight); }

DropoutImpl::DropoutImpl(double probability, std::string name)
    : probability_(probability), name_(std::move(name)) {
  check_probability(probability_, name_);
}
Tensor DropoutImpl::forward(const Tensor& x) {
  if (!is_training() || probability_ == 0) return x;
  const int64_t columns = x.numel() / x.size(0);
  return x * kept_scale(x, columns, probability_, name_).view(x.sizes());
}

DropPathImpl::DropPathImpl(double probability, std::string name)
    : probability_(probability), name_(std::move(name)) {
  check_probability(probability_, name_);
}
Tensor DropPathImpl::forward(const Tensor& x) {
  if (!is_training() || probability_ == 0) return x;
  std::vector<int64_t> shape(static_cast<size_t>(x.dim()), 1);
  shape[0] = x.size(0);
  return x * kept_scale(x, 1, probability_, name_).view(shape);
}

Tensor take_every(const Tensor& x, int64_t stride) { return TakeEvery::apply(x, stride); }

Tensor to_full_precision(const Tensor& x) {
  const bool half_width = x.scalar_type() == torch::kBFloat16 || x.scalar_type() == torch::kHalf;
  return half_width ? x.to(torch::kFloat) : x;
}

void to_channels_last(torch::nn::Module& module) {
  for (auto& parameter : module.parameters())
    if (parameter.dim() == 4)
      parameter.set_data(parameter.detach().contiguous(at::MemoryFormat::ChannelsLast));
}

void to_dtype(torch::nn::Module& module, torch::Dtype dtype) {
  const auto cast = [dtype](Tensor& tensor) {
    if (tensor.is_floating_point()) tensor.set_data(tensor.detach().to(dtype));
  };
  for (auto& parameter : module.parameters()) cast(parameter);
  for (auto& buffer : module.buffers()) cast(buffer);
}

}  // namespace facetrain
