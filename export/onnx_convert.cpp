#include "export/onnx_convert.h"

#include <ATen/ops/full.h>
#include <ATen/ops/tensor.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/passes/inliner.h>

#include <algorithm>
#include <set>

#include "core/check.h"

namespace facetrain {

using torch::jit::Node;
using torch::jit::Value;

class OnnxConverter {
 public:
  OnnxConverter(const torch::jit::Module& module, const std::string& input) {
    for (const auto& item : module.named_parameters()) weights_[item.name] = item.value;
    for (const auto& item : module.named_buffers()) weights_[item.name] = item.value;
    graph_ = module.get_method("forward").graph()->copy();
    torch::jit::Inline(*graph_);
    FT_CHECK(graph_->inputs().size() == 2 && graph_->outputs().size() == 1,
             "wanted a traced network from one tensor to one, found {} to {}",
             graph_->inputs().size() - 1, graph_->outputs().size());
    modules_[graph_->inputs()[0]] = "";
    names_[graph_->inputs()[1]] = model_.input.name = input;
  }

  OnnxModel convert(const std::string& output) {
    for (const Node* node : graph_->nodes()) convert(*node);
    rename_output(names_.at(graph_->outputs()[0]), model_.output.name = output);
    return std::move(model_);
  }

  // The ONNX name of a tensor; a weight becomes part of the file when it is first asked for.
  std::string name_of(const Value* value) {
    const auto found = names_.find(value);
    FT_CHECK(found != names_.end(), "'{}' is no tensor of the traced network", value->debugName());
    if (const auto weight = weights_.find(found->second); weight != weights_.end())
      add_tensor(weight->first, weight->second);
    return found->second;
  }

  std::vector<int64_t> shape_of(const Value* value) const {
    const auto name = names_.find(value);
    const auto weight = name == names_.end() ? weights_.end() : weights_.find(name->second);
    if (weight != weights_.end()) return weight->second.sizes().vec();
    const auto type = value->type()->cast<c10::TensorType>();
    const auto sizes = type ? type->sizes().concrete_sizes() : std::nullopt;
    FT_CHECK(sizes.has_value(), "the trace does not know the shape of '{}'", value->debugName());
    return *sizes;
  }

  std::string reshaped_weight(const Value* value, const std::vector<int64_t>& shape) {
    const auto found = names_.find(value);
    const auto weight = found == names_.end() ? weights_.end() : weights_.find(found->second);
    FT_CHECK(weight != weights_.end(), "'{}' is no weight of the network", value->debugName());
    add_tensor(weight->first, weight->second.view(shape));
    return weight->first;
  }

  std::string add_constant(const at::Tensor& tensor) {
    const std::string name = fmt::format("constant_{}", constants_++);
    add_tensor(name, tensor);
    return name;
  }

  std::string add_list(const std::vector<int64_t>& values) {
    auto& name = lists_[values];
    if (name.empty()) name = add_constant(at::tensor(values, at::kLong));
    return name;
  }

  std::string emit(const std::string& op, const std::vector<std::string>& inputs,
                   const std::vector<std::pair<std::string, OnnxAttribute>>& attributes) {
    const std::string name = fmt::format("{}_{}", op, model_.nodes.size());
    model_.nodes.push_back({op, name, inputs, {name}, attributes});
    return name;
  }

  void require_opset(int64_t version) {
    model_.opset = std::max(model_.opset, version);
    if (version >= 15)
      model_.ir_version = std::max<int64_t>(model_.ir_version, 8);  // ONNX 1.10 ...
  }

 private:
  void convert(const Node& node) {
    if (node.kind() == c10::prim::GetAttr) return take_attribute(node);
    if (node.kind() == c10::prim::Constant) {
      const auto value = torch::jit::toIValue(node.output());
      if (value && value->isTensor()) names_[node.output()] = add_constant(value->toTensor());
      return;
    }
    if (node.kind() == c10::prim::ListConstruct) return;  // read where it is used
    const std::string kind = node.kind().toQualString();
    const auto rule = onnx_rules().find(kind);
    FT_CHECK(rule != onnx_rules().end(),
             "the ONNX writer has no rule for the operation {} of this network; export it --to "
             "torchscript or safetensors, or add a rule to export/onnx_rules.cpp",
             kind);
    names_[node.output()] = rule->second(OnnxCall(*this, node));
  }

  // `self.layer1` is a module, `self.layer1.weight` a tensor by that name.
  void take_attribute(const Node& node) {
    const std::string name = modules_.at(node.input()) + node.s(c10::attr::name);
    if (node.output()->type()->cast<c10::ClassType>())
      modules_[node.output()] = name + ".";
    else
      names_[node.output()] = name;
  }

  void add_tensor(const std::string& name, const at::Tensor& tensor) {
    const auto [entry, fresh] = added_.try_emplace(name, tensor.sizes().vec());
    FT_CHECK(entry->second == tensor.sizes(),
             "the ONNX writer cannot give the weight '{}' two shapes, [{}] and [{}]", name,
             fmt::join(entry->second, ", "), fmt::join(tensor.sizes(), ", "));
    if (fresh) model_.initializers.emplace_back(name, tensor.detach());
  }

  // The result is called as the user of the file expects, and made by the last node.
  void rename_output(const std::string& found, const std::string& wanted) {
    const bool last = !model_.nodes.empty() && model_.nodes.back().outputs.front() == found;
    if (!last) emit("Identity", {found}, {});
    model_.nodes.back().outputs.front() = wanted;
  }

  std::shared_ptr<torch::jit::Graph> graph_;
  std::map<std::string, at::Tensor> weights_;          // all of the network
  std::map<const Value*, std::string> modules_;        // "layer1.0."
  std::map<const Value*, std::string> names_;          // of tensors
  std::map<std::string, std::vector<int64_t>> added_;  // tensors of the file and their shapes
  std::map<std::vector<int64_t>, std::string> lists_;  // constants by their values
  int64_t constants_ = 0;
  OnnxModel model_;
};

OnnxModel convert_to_onnx(const torch::jit::Module& module, const std::string& input,
                          const std::string& output) {
  return OnnxConverter(module, input).convert(output);
}

void OnnxCall::check(bool condition, const std::string& wanted) const {
  FT_CHECK(condition, "the ONNX writer's rule for {} wants {}", node_.kind().toQualString(),
           wanted);
}

c10::IValue OnnxCall::value(size_t i) const {
  const auto found = torch::jit::toIValue(node_.input(i));
  check(found.has_value(),
        fmt::format("argument {} known when the network is traced, not computed from images", i));
  return *found;
}

bool OnnxCall::is_none(size_t i) const {
  return i >= node_.inputs().size() || node_.input(i)->mustBeNone();
}

bool OnnxCall::is_tensor(size_t i) const {
  return node_.input(i)->type()->cast<c10::TensorType>() != nullptr;
}

std::string OnnxCall::tensor(size_t i) const {
  return is_none(i) ? "" : converter_.name_of(node_.input(i));
}

std::vector<std::string> OnnxCall::tensors(size_t i) const {
  check(node_.input(i)->node()->kind() == c10::prim::ListConstruct, "a list of tensors");
  std::vector<std::string> names;
  for (const Value* item : node_.input(i)->node()->inputs())
    names.push_back(converter_.name_of(item));
  return names;
}

int64_t OnnxCall::integer(size_t i) const { return value(i).toInt(); }
bool OnnxCall::flag(size_t i) const { return value(i).toBool(); }
std::string OnnxCall::text(size_t i) const { return value(i).toStringRef(); }

double OnnxCall::number(size_t i) const {
  const auto found = value(i);
  check(found.isScalar(), fmt::format("a number as argument {}", i));
  return found.toScalar().toDouble();
}

std::vector<int64_t> OnnxCall::integers(size_t i) const {
  const Node* list = node_.input(i)->node();
  if (list->kind() != c10::prim::ListConstruct) return value(i).toIntVector();
  std::vector<int64_t> values;
  for (const Value* item : list->inputs()) {
    const auto found = torch::jit::toIValue(item);
    check(found && found->isInt(), "sizes known when the network is traced");
    values.push_back(found->toInt());
  }
  return values;
}

std::vector<int64_t> OnnxCall::shape(size_t i) const { return converter_.shape_of(node_.input(i)); }

std::vector<int64_t> OnnxCall::result_shape() const { return converter_.shape_of(node_.output()); }

int64_t OnnxCall::axis(size_t i, size_t of) const {
  const int64_t given = integer(i);
  return given < 0 ? given + rank(of) : given;
}

std::string OnnxCall::constant(double value) const {
  return converter_.add_constant(at::scalar_tensor(value, at::kFloat));
}

std::string OnnxCall::constant(const std::vector<int64_t>& values) const {
  return converter_.add_list(values);
}

std::string OnnxCall::filled(int64_t n, double value) const {
  return converter_.add_constant(at::full({n}, value, at::kFloat));
}

std::string OnnxCall::reshaped_weight(size_t i, const std::vector<int64_t>& shape) const {
  return converter_.reshaped_weight(node_.input(i), shape);
}

std::string OnnxCall::emit(
    const std::string& op, const std::vector<std::string>& inputs,
    const std::vector<std::pair<std::string, OnnxAttribute>>& attributes) const {
  return converter_.emit(op, inputs, attributes);
}

void OnnxCall::require_opset(int64_t version) const { converter_.require_opset(version); }

}  // namespace facetrain
