// By https://onnx.ai/onnx/operators, not by export/onnx_rules.cpp.
#include "export/onnx_run.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <functional>

#include "core/check.h"

namespace facetrain {
namespace {

using at::Tensor;
using Ints = std::vector<int64_t>;

// A node with its inputs; defaults of attributes are the operators' own.
struct Call {
  const OnnxNode& node;
  std::vector<Tensor> in;

  template <class T>
  T get(const std::string& name, T fallback) const {
    for (const auto& [key, value] : node.attributes)
      if (key == name) return std::get<T>(value);
    return fallback;
  }
  Ints integers(const std::string& name, const Ints& fallback = {}) const {
    return get<Ints>(name, fallback);
  }
  int64_t integer(const std::string& name, int64_t fallback) const {
    return get<int64_t>(name, fallback);
  }
  double number(const std::string& name, float fallback) const {
    return get<float>(name, fallback);
  }
  Tensor optional(size_t i) const { return i < in.size() ? in[i] : Tensor(); }
  // Values of an int64 tensor.
  Ints list(size_t i) const {
    const Tensor& t = in.at(i);
    return {t.const_data_ptr<int64_t>(), t.const_data_ptr<int64_t>() + t.numel()};
  }
  // Padding that is the same on both sides.
  Ints padding() const {
    const Ints pads = integers("pads", {0, 0, 0, 0});
    FT_CHECK(pads.size() == 4 && pads[0] == pads[2] && pads[1] == pads[3],
             "ONNX: {} with pads [{}]", node.op, fmt::join(pads, ", "));
    return {pads[0], pads[1]};
  }
};

Tensor gemm(const Call& c) {
  const Tensor a = c.integer("transA", 0) != 0 ? c.in[0].t() : c.in[0];
  const Tensor b = c.integer("transB", 0) != 0 ? c.in[1].t() : c.in[1];
  const Tensor product = at::mm(a, b) * c.number("alpha", 1);
  return c.in.size() > 2 ? product + c.in[2] * c.number("beta", 1) : product;
}

Tensor reshape(const Call& c) {
  Ints shape = c.list(1);
  for (size_t k = 0; k < shape.size(); ++k)
    if (shape[k] == 0) shape[k] = c.in[0].size(static_cast<int64_t>(k));
  return c.in[0].reshape(shape);
}

Tensor slice(const Call& c) {
  const Ints starts = c.list(1), ends = c.list(2), axes = c.list(3), steps = c.list(4);
  Tensor x = c.in[0];
  for (size_t k = 0; k < axes.size(); ++k) x = x.slice(axes[k], starts[k], ends[k], steps[k]);
  return x;
}

Tensor average_pool(const Call& c) {
  return at::avg_pool2d(c.in[0], c.integers("kernel_shape"), c.integers("strides", {1, 1}),
                        c.padding(), false, c.integer("count_include_pad", 0) != 0);
}

// Indices may count from the end.
Tensor gather(const Call& c) {
  const int64_t axis = c.integer("axis", 0);
  return c.in[0].index_select(axis, at::remainder(c.in[1], c.in[0].size(axis)));
}

Tensor layer_norm(const Call& c) {
  const int64_t axis = c.integer("axis", -1);
  const auto sizes = c.in[0].sizes().slice(axis < 0 ? axis + c.in[0].dim() : axis);
  return at::layer_norm(c.in[0], sizes, c.in[1], c.optional(2), c.number("epsilon", 1e-5F));
}

Tensor squeeze(const Call& c) {
  Tensor x = c.in[0];
  Ints axes = c.list(1);
  std::sort(axes.rbegin(), axes.rend());
  for (const int64_t axis : axes) x = x.squeeze(axis);
  return x;
}

// Begins and ends stand for the axes in order; PyTorch counts from the last.
Tensor pad(const Call& c) {
  const Ints pads = c.list(1);
  const size_t rank = pads.size() / 2;
  Ints reversed;
  for (size_t axis = rank; axis-- > 0;)
    reversed.insert(reversed.end(), {pads[axis], pads[axis + rank]});
  return at::constant_pad_nd(c.in[0], reversed, c.in.at(2).item());
}

// Both sides broadcast: 1 keeps an axis.
Tensor expand(const Call& c) {
  Ints sizes = c.list(1);
  for (size_t k = 0; k < sizes.size(); ++k)
    sizes[k] = sizes[k] == 1 ? c.in[0].size(static_cast<int64_t>(k)) : sizes[k];
  return c.in[0].expand(sizes);
}

const std::map<std::string, std::function<Tensor(const Call&)>>& operators() {
  static const std::map<std::string, std::function<Tensor(const Call&)>> all{
      {"Add", [](const Call& c) { return c.in[0] + c.in[1]; }},
      {"AveragePool", average_pool},
      {"BatchNormalization",
       [](const Call& c) {
         return at::batch_norm(c.in[0], c.in[1], c.in[2], c.in[3], c.in[4], false, 0,
                               c.number("epsilon", 1e-5F), false);
       }},
      {"Concat", [](const Call& c) { return at::cat(c.in, c.integer("axis", 0)); }},
      {"Conv",
       [](const Call& c) {
         return at::conv2d(c.in[0], c.in[1], c.optional(2), c.integers("strides", {1, 1}),
                           c.padding(), c.integers("dilations", {1, 1}), c.integer("group", 1));
       }},
      {"Clip", [](const Call& c) { return c.in[0].clamp(c.in.at(1).item(), c.in.at(2).item()); }},
      {"Div", [](const Call& c) { return c.in[0] / c.in[1]; }},
      {"Erf", [](const Call& c) { return c.in[0].erf(); }},
      {"Expand", expand},
      {"Flatten",
       [](const Call& c) {
         FT_CHECK(c.integer("axis", 1) == 1, "ONNX: Flatten from axis {}", c.integer("axis", 1));
         return c.in[0].flatten(1);
       }},
      {"Gather", gather},
      {"Gemm", gemm},
      {"GlobalAveragePool",
       [](const Call& c) {
         return c.in[0].mean(Ints{2, 3}, true);
       }},
      {"Identity", [](const Call& c) { return c.in[0]; }},
      {"LayerNormalization", layer_norm},
      {"LeakyRelu",
       [](const Call& c) { return at::leaky_relu(c.in[0], c.number("alpha", 0.01F)); }},
      {"MatMul", [](const Call& c) { return at::matmul(c.in[0], c.in[1]); }},
      {"MaxPool",
       [](const Call& c) {
         return at::max_pool2d(c.in[0], c.integers("kernel_shape"), c.integers("strides", {1, 1}),
                               c.padding(), c.integers("dilations", {1, 1}),
                               c.integer("ceil_mode", 0) != 0);
       }},
      {"Mul", [](const Call& c) { return c.in[0] * c.in[1]; }},
      {"Pad", pad},
      {"PRelu", [](const Call& c) { return at::where(c.in[0] < 0, c.in[0] * c.in[1], c.in[0]); }},
      {"ReduceMean",
       [](const Call& c) {
         return c.in[0].mean(c.integers("axes"), c.integer("keepdims", 1) != 0);
       }},
      {"Relu", [](const Call& c) { return c.in[0].relu(); }},
      {"Reshape", reshape},
      {"Shape", [](const Call& c) { return at::tensor(c.in[0].sizes(), at::kLong); }},
      {"Sigmoid", [](const Call& c) { return c.in[0].sigmoid(); }},
      {"Slice", slice},
      {"Softmax", [](const Call& c) { return c.in[0].softmax(c.integer("axis", -1)); }},
      {"Softplus", [](const Call& c) { return at::softplus(c.in[0]); }},
      {"Sqrt", [](const Call& c) { return c.in[0].sqrt(); }},
      {"Squeeze", squeeze},
      {"Sub", [](const Call& c) { return c.in[0] - c.in[1]; }},
      {"Tanh", [](const Call& c) { return c.in[0].tanh(); }},
      {"Transpose", [](const Call& c) { return c.in[0].permute(c.integers("perm")); }},
      {"Unsqueeze", [](const Call& c) { return c.in[0].unsqueeze(c.list(1).at(0)); }},
  };
  return all;
}

}  // namespace

Tensor run_onnx(const OnnxModel& model, const Tensor& input) {
  std::map<std::string, Tensor> values{{model.input.name, input}};
  for (const auto& [name, tensor] : model.initializers) values[name] = tensor;
  std::map<std::string, size_t> last_use{{model.output.name, model.nodes.size()}};
  for (size_t k = 0; k < model.nodes.size(); ++k)
    for (const auto& name : model.nodes[k].inputs) last_use.try_emplace(name, 0).first->second = k;
  for (size_t k = 0; k < model.nodes.size(); ++k) {
    const OnnxNode& node = model.nodes[k];
    const auto found = operators().find(node.op);
    FT_CHECK(found != operators().end(), "ONNX: operator {} cannot be checked", node.op);
    Call call{node, {}};
    for (const auto& name : node.inputs) call.in.push_back(name.empty() ? Tensor() : values[name]);
    values[node.outputs.front()] = found->second(call);
    for (const auto& name : node.inputs)
      if (last_use[name] <= k) values.erase(name);
  }
  return values.at(model.output.name);
}

}  // namespace facetrain
