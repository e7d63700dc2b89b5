// What each PyTorch operation is in ONNX (https://onnx.ai/onnx/operators, opset 13 unless a rule
// says otherwise). Arguments are numbered as in PyTorch's schema, which stands beside each rule.
#include <algorithm>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>

#include "export/onnx_convert.h"

namespace facetrain {
namespace {

using Ints = std::vector<int64_t>;

// Of a pooling: one number stands for both axes, none for those of the kernel.
Ints pair(const Ints& values, const Ints& otherwise = {}) {
  if (values.empty()) return otherwise;
  return values.size() == 1 ? Ints{values[0], values[0]} : values;
}

// Begins and ends of all axes: ONNX counts padding twice, PyTorch once.
Ints both_sides(const Ints& padding) {
  Ints pads = padding;
  pads.insert(pads.end(), padding.begin(), padding.end());
  return pads;
}

// (input, weight, bias, stride, padding, dilation, transposed, output_padding, groups, ...)
std::string convolution(const OnnxCall& call) {
  call.check(!call.flag(6), "no transposed convolution");
  std::vector<std::string> inputs{call.tensor(0), call.tensor(1)};
  if (!call.is_none(2)) inputs.push_back(call.tensor(2));
  const Ints weight = call.shape(1);
  return call.emit("Conv", inputs,
                   {{"dilations", call.integers(5)},
                    {"group", call.integer(8)},
                    {"kernel_shape", Ints(weight.begin() + 2, weight.end())},
                    {"pads", both_sides(call.integers(4))},
                    {"strides", call.integers(3)}});
}

// (input, weight, bias, running_mean, running_var, training, momentum, eps, cudnn)
std::string batch_norm(const OnnxCall& call) {
  call.check(!call.flag(5) && !call.is_none(3), "batch norm in eval mode");
  const int64_t channels = call.shape(0).at(1);
  const std::string weight = call.is_none(1) ? call.filled(channels, 1) : call.tensor(1);
  const std::string bias = call.is_none(2) ? call.filled(channels, 0) : call.tensor(2);
  return call.emit("BatchNormalization",
                   {call.tensor(0), weight, bias, call.tensor(3), call.tensor(4)},
                   {{"epsilon", static_cast<float>(call.number(7))}});
}

// (input, weight): ONNX broadcasts slopes from the last axis, so [C] becomes [C, 1, 1].
std::string prelu(const OnnxCall& call) {
  Ints shape(static_cast<size_t>(std::max<int64_t>(call.rank(0) - 1, 1)), 1);
  shape[0] = call.shape(1).at(0);
  return call.emit("PRelu", {call.tensor(0), call.reshaped_weight(1, shape)});
}

// (input, weight, bias): x W^T + b
std::string linear(const OnnxCall& call) {
  if (call.rank(0) == 2) {
    std::vector<std::string> inputs{call.tensor(0), call.tensor(1)};
    if (!call.is_none(2)) inputs.push_back(call.tensor(2));
    return call.emit("Gemm", inputs, {{"transB", int64_t{1}}});
  }
  const auto transposed = call.emit("Transpose", {call.tensor(1)}, {{"perm", Ints{1, 0}}});
  const auto product = call.emit("MatMul", {call.tensor(0), transposed});
  return call.is_none(2) ? product : call.emit("Add", {product, call.tensor(2)});
}

// (bias, a, b, beta, alpha)
std::string addmm(const OnnxCall& call) {
  return call.emit("Gemm", {call.tensor(1), call.tensor(2), call.tensor(0)},
                   {{"alpha", static_cast<float>(call.number(4))},
                    {"beta", static_cast<float>(call.number(3))}});
}

std::string operand(const OnnxCall& call, size_t i) {
  return call.is_tensor(i) ? call.tensor(i) : call.constant(call.number(i));
}

// (self, other), one of them may be a number
OnnxRule binary(const std::string& op) {
  return [op](const OnnxCall& call) {
    call.check(call.is_none(2), "no rounding mode");
    return call.emit(op, {operand(call, 0), operand(call, 1)});
  };
}

// (self, other, alpha): self ± alpha other
OnnxRule sum(const std::string& op) {
  return [op](const OnnxCall& call) {
    std::string other = operand(call, 1);
    if (call.number(2) != 1) other = call.emit("Mul", {other, call.constant(call.number(2))});
    return call.emit(op, {operand(call, 0), other});
  };
}

// (self)
OnnxRule unary(const std::string& op) {
  return [op](const OnnxCall& call) { return call.emit(op, {call.tensor(0)}); };
}

std::string same(const OnnxCall& call) { return call.tensor(0); }

// (self): x · sigmoid(x)
std::string silu(const OnnxCall& call) {
  return call.emit("Mul", {call.tensor(0), call.emit("Sigmoid", {call.tensor(0)})});
}

// (self, negative_slope)
std::string leaky_relu(const OnnxCall& call) {
  return call.emit("LeakyRelu", {call.tensor(0)}, {{"alpha", static_cast<float>(call.number(1))}});
}

// (self, approximate): x / 2 · (1 + erf(x / √2)), or its tanh form (Hendrycks 2016)
std::string gelu(const OnnxCall& call) {
  const std::string x = call.tensor(0);
  std::string bend;
  if (call.text(1) == "none") {
    bend = call.emit("Erf", {call.emit("Mul", {x, call.constant(1 / std::numbers::sqrt2)})});
  } else {
    const auto square = call.emit("Mul", {x, x});
    const auto slope =
        call.emit("Add", {call.emit("Mul", {square, call.constant(0.044715)}), call.constant(1.0)});
    const auto inner = call.emit("Mul", {x, call.constant(std::sqrt(2 / std::numbers::pi))});
    bend = call.emit("Tanh", {call.emit("Mul", {inner, slope})});
  }
  const auto half = call.emit("Mul", {x, call.constant(0.5)});
  return call.emit("Mul", {half, call.emit("Add", {bend, call.constant(1.0)})});
}

// (self, dim, dtype)
std::string softmax(const OnnxCall& call) {
  call.check(call.is_none(2), "softmax in the type of its input");
  return call.emit("Softmax", {call.tensor(0)}, {{"axis", call.axis(1, 0)}});
}

// (input, normalized_shape, weight, bias, eps, cudnn)
std::string layer_norm(const OnnxCall& call) {
  call.require_opset(17);
  const auto axes = static_cast<int64_t>(call.integers(1).size());
  call.check(!call.is_none(2), "layer norm with a weight");
  std::vector<std::string> inputs{call.tensor(0), call.tensor(2)};
  if (!call.is_none(3)) inputs.push_back(call.tensor(3));
  return call.emit("LayerNormalization", inputs,
                   {{"axis", -axes}, {"epsilon", static_cast<float>(call.number(4))}});
}

// (self, kernel, stride, padding, dilation, ceil_mode)
std::string max_pool(const OnnxCall& call) {
  const Ints kernel = pair(call.integers(1));
  return call.emit("MaxPool", {call.tensor(0)},
                   {{"ceil_mode", int64_t{call.flag(5)}},
                    {"dilations", pair(call.integers(4))},
                    {"kernel_shape", kernel},
                    {"pads", both_sides(pair(call.integers(3)))},
                    {"strides", pair(call.integers(2), kernel)}});
}

// (self, kernel, stride, padding, ceil_mode, count_include_pad, divisor_override)
std::string average_pool(const OnnxCall& call) {
  call.check(call.is_none(6) && !call.flag(4), "average pooling without ceil_mode and divisor");
  const Ints kernel = pair(call.integers(1));
  return call.emit("AveragePool", {call.tensor(0)},
                   {{"count_include_pad", int64_t{call.flag(5)}},
                    {"kernel_shape", kernel},
                    {"pads", both_sides(pair(call.integers(3)))},
                    {"strides", pair(call.integers(2), kernel)}});
}

// (self, output_size)
std::string adaptive_average_pool(const OnnxCall& call) {
  const Ints in = call.shape(0), out = pair(call.integers(1));
  if (out == Ints{1, 1}) return call.emit("GlobalAveragePool", {call.tensor(0)});
  call.check(in[2] % out[0] == 0 && in[3] % out[1] == 0,
             "an output that divides the input's sides");
  const Ints kernel{in[2] / out[0], in[3] / out[1]};
  return call.emit("AveragePool", {call.tensor(0)},
                   {{"kernel_shape", kernel}, {"strides", kernel}});
}

// (self, dim, keepdim, dtype)
std::string mean(const OnnxCall& call) {
  call.check(!call.is_none(1) && call.is_none(3), "a mean over named axes");
  return call.emit("ReduceMean", {call.tensor(0)},
                   {{"axes", call.integers(1)}, {"keepdims", int64_t{call.flag(2)}}});
}

// (self, start, end). In the shape of Reshape a 0 keeps the size that stands there.
std::string flatten(const OnnxCall& call) {
  const int64_t first = call.axis(1, 0), last = call.axis(2, 0);
  if (first == 1 && last == call.rank(0) - 1)
    return call.emit("Flatten", {call.tensor(0)}, {{"axis", int64_t{1}}});
  Ints shape(static_cast<size_t>(first), 0);
  shape.push_back(-1);
  const Ints in = call.shape(0);
  shape.insert(shape.end(), in.begin() + last + 1, in.end());
  return call.emit("Reshape", {call.tensor(0), call.constant(shape)});
}

// (self, shape)
std::string reshape(const OnnxCall& call) {
  return call.emit("Reshape", {call.tensor(0), call.constant(call.integers(1))});
}

// (self, dims)
std::string permute(const OnnxCall& call) {
  Ints axes = call.integers(1);
  for (int64_t& axis : axes) axis = axis < 0 ? axis + call.rank(0) : axis;
  return call.emit("Transpose", {call.tensor(0)}, {{"perm", axes}});
}

std::string swap_axes(const OnnxCall& call, int64_t a, int64_t b) {
  Ints axes(static_cast<size_t>(call.rank(0)));
  std::iota(axes.begin(), axes.end(), 0);
  std::swap(axes.at(static_cast<size_t>(a)), axes.at(static_cast<size_t>(b)));
  return call.emit("Transpose", {call.tensor(0)}, {{"perm", axes}});
}

// (self, dim0, dim1) and (self)
std::string transpose(const OnnxCall& call) {
  return swap_axes(call, call.axis(1, 0), call.axis(2, 0));
}
std::string t(const OnnxCall& call) { return swap_axes(call, 0, 1); }

// (self, dim)
std::string unsqueeze(const OnnxCall& call) {
  return call.emit("Unsqueeze", {call.tensor(0), call.constant(Ints{call.integer(1)})});
}
std::string squeeze(const OnnxCall& call) {
  const int64_t axis = call.axis(1, 0);
  call.check(call.shape(0).at(static_cast<size_t>(axis)) == 1, "an axis of size 1");
  return call.emit("Squeeze", {call.tensor(0), call.constant(Ints{axis})});
}

// (self, dim, start, end, step)
std::string slice(const OnnxCall& call) {
  const int64_t start = call.is_none(2) ? 0 : call.integer(2);
  const int64_t end = call.is_none(3) ? std::numeric_limits<int64_t>::max() : call.integer(3);
  return call.emit("Slice",
                   {call.tensor(0), call.constant(Ints{start}), call.constant(Ints{end}),
                    call.constant(Ints{call.axis(1, 0)}), call.constant(Ints{call.integer(4)})});
}

// (self, dim, index)
std::string select(const OnnxCall& call) {
  const int64_t axis = call.axis(1, 0);
  const auto kept =
      call.emit("Gather", {call.tensor(0), call.constant(Ints{call.integer(2)})}, {{"axis", axis}});
  return call.emit("Squeeze", {kept, call.constant(Ints{axis})});
}

// (self, shifts, dims): what leaves at one end comes in at the other
std::string roll(const OnnxCall& call) {
  const Ints shifts = call.integers(1), axes = call.integers(2);
  call.check(shifts.size() == axes.size(), "a shift for every axis");
  constexpr int64_t kEnd = std::numeric_limits<int64_t>::max();
  std::string x = call.tensor(0);
  for (size_t k = 0; k < axes.size(); ++k) {
    const auto part = [&](int64_t start, int64_t end) {
      return call.emit("Slice", {x, call.constant(Ints{start}), call.constant(Ints{end}),
                                 call.constant(Ints{axes[k]}), call.constant(Ints{1})});
    };
    if (shifts[k] != 0)
      x = call.emit("Concat", {part(-shifts[k], kEnd), part(0, -shifts[k])}, {{"axis", axes[k]}});
  }
  return x;
}

// (self, pad, value): pad counts from the last axis, begin and end in turn
std::string constant_pad(const OnnxCall& call) {
  const Ints pad = call.integers(1);
  const auto rank = static_cast<size_t>(call.rank(0));
  Ints pads(2 * rank, 0);
  for (size_t k = 0; k < pad.size(); ++k) pads[rank - 1 - k / 2 + (k % 2 == 0 ? 0 : rank)] = pad[k];
  return call.emit("Pad", {call.tensor(0), call.constant(pads), call.constant(call.number(2))});
}

// (self, size, implicit): -1 keeps what stands there, as 1 does in ONNX
std::string expand(const OnnxCall& call) {
  Ints sizes = call.integers(1);
  for (int64_t& size : sizes) size = size == -1 ? 1 : size;
  return call.emit("Expand", {call.tensor(0), call.constant(sizes)});
}

// (self, other): the other's shape is asked for when the network runs, so that it may hold the
// number of images
std::string expand_as(const OnnxCall& call) {
  return call.emit("Expand", {call.tensor(0), call.emit("Shape", {call.tensor(1)})});
}

// (self, low, high)
std::string hardtanh(const OnnxCall& call) {
  return call.emit("Clip",
                   {call.tensor(0), call.constant(call.number(1)), call.constant(call.number(2))});
}

// (weight, indices, padding_idx, scale_grad_by_freq, sparse)
std::string embedding(const OnnxCall& call) {
  return call.emit("Gather", {call.tensor(0), call.tensor(1)}, {{"axis", int64_t{0}}});
}

// (query, key, value, mask, dropout, causal, scale, grouped): softmax(scale · q kᵀ + mask) v
std::string attention(const OnnxCall& call) {
  call.check(call.number(4) == 0 && !call.flag(5) && !call.flag(7),
             "attention without dropout, causal mask and groups");
  const int64_t rank = call.rank(1);
  const double scale =
      call.is_none(6) ? 1 / std::sqrt(static_cast<double>(call.shape(0).back())) : call.number(6);
  Ints swapped(static_cast<size_t>(rank));
  std::iota(swapped.begin(), swapped.end(), 0);
  std::swap(swapped[swapped.size() - 1], swapped[swapped.size() - 2]);
  const auto query = call.emit("Mul", {call.tensor(0), call.constant(scale)});
  const auto key = call.emit("Transpose", {call.tensor(1)}, {{"perm", swapped}});
  std::string scores = call.emit("MatMul", {query, key});
  if (!call.is_none(3)) scores = call.emit("Add", {scores, call.tensor(3)});
  const auto weights = call.emit("Softmax", {scores}, {{"axis", rank - 1}});
  return call.emit("MatMul", {weights, call.tensor(2)});
}

// (self, beta, threshold)
std::string softplus(const OnnxCall& call) {
  call.check(call.number(1) == 1, "softplus with beta 1");
  return call.emit("Softplus", {call.tensor(0)});
}

// (tensors, dim)
std::string cat(const OnnxCall& call) {
  const int64_t rank = static_cast<int64_t>(call.result_shape().size());
  const int64_t axis = call.integer(1);
  return call.emit("Concat", call.tensors(0), {{"axis", axis < 0 ? axis + rank : axis}});
}

}  // namespace

const std::map<std::string, OnnxRule>& onnx_rules() {
  static const std::map<std::string, OnnxRule> rules{
      {"aten::_convolution", convolution},
      {"aten::adaptive_avg_pool2d", adaptive_average_pool},
      {"aten::add", sum("Add")},
      {"aten::addmm", addmm},
      {"aten::alias", same},
      {"aten::avg_pool2d", average_pool},
      {"aten::batch_norm", batch_norm},
      {"aten::bmm", binary("MatMul")},
      {"aten::cat", cat},
      {"aten::clone", same},
      {"aten::constant_pad_nd", constant_pad},
      {"aten::contiguous", same},
      {"aten::detach", same},
      {"aten::div", binary("Div")},
      {"aten::embedding", embedding},
      {"aten::expand", expand},
      {"aten::expand_as", expand_as},
      {"aten::flatten", flatten},
      {"aten::gelu", gelu},
      {"aten::hardtanh", hardtanh},
      {"aten::layer_norm", layer_norm},
      {"aten::leaky_relu", leaky_relu},
      {"aten::linear", linear},
      {"aten::matmul", binary("MatMul")},
      {"aten::max_pool2d", max_pool},
      {"aten::mean", mean},
      {"aten::mul", binary("Mul")},
      {"aten::permute", permute},
      {"aten::prelu", prelu},
      {"aten::relu", unary("Relu")},
      {"aten::reshape", reshape},
      {"aten::roll", roll},
      {"aten::scaled_dot_product_attention", attention},
      {"aten::select", select},
      {"aten::sigmoid", unary("Sigmoid")},
      {"aten::silu", silu},
      {"aten::slice", slice},
      {"aten::softmax", softmax},
      {"aten::softplus", softplus},
      {"aten::sqrt", unary("Sqrt")},
      {"aten::squeeze", squeeze},
      {"aten::sub", sum("Sub")},
      {"aten::t", t},
      {"aten::tanh", unary("Tanh")},
      {"aten::transpose", transpose},
      {"aten::unsqueeze", unsqueeze},
      {"aten::view", reshape},
  };
  return rules;
}

}  // namespace facetrain
