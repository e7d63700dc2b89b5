// From a traced network to ONNX: the walk over its graph, and what a rule for one operation sees.
//
// Generic over networks: no rule knows any. Weights keep their public names and are not folded; an
// operation without a rule is an error that names it. Rules must not use the trace's number of
// images; who does is found out when the file is verified.
#pragma once

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/ir/ir.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "export/onnx_file.h"

namespace facetrain {

class OnnxConverter;

// One operation of the traced graph; i counts its arguments as in PyTorch's schema.
class OnnxCall {
 public:
  OnnxCall(OnnxConverter& converter, const torch::jit::Node& node)
      : converter_(converter), node_(node) {}

  bool is_none(size_t i) const;
  bool is_tensor(size_t i) const;
  // The ONNX name of a tensor; "" for None.
  std::string tensor(size_t i) const;
  std::vector<std::string> tensors(size_t i) const;  // of a list
  // Arguments that are numbers in the trace. They throw for anything else.
  int64_t integer(size_t i) const;
  double number(size_t i) const;
  bool flag(size_t i) const;
  std::vector<int64_t> integers(size_t i) const;
  std::string text(size_t i) const;
  // Shape of an argument or of the result in the trace, whose number of images is no one else's.
  std::vector<int64_t> shape(size_t i) const;
  std::vector<int64_t> result_shape() const;
  int64_t rank(size_t i) const { return static_cast<int64_t>(shape(i).size()); }
  int64_t axis(size_t i, size_t of) const;  // integer(i) counted from the front of tensor `of`

  // A further tensor of the file: a number, a list of integers.
  std::string constant(double value) const;
  std::string constant(const std::vector<int64_t>& values) const;
  // A weight under its own name but in another shape ([C] as [C, 1, 1]). Throws when it is none.
  std::string reshaped_weight(size_t i, const std::vector<int64_t>& shape) const;
  // Ones or zeros [n].
  std::string filled(int64_t n, double value) const;

  // Adds a node and returns the name of its output.
  std::string emit(const std::string& op, const std::vector<std::string>& inputs,
                   const std::vector<std::pair<std::string, OnnxAttribute>>& attributes = {}) const;
  // The node needs this version of the operator set.
  void require_opset(int64_t version) const;
  // Throws unless `condition`, naming the operation and what its rule wants.
  void check(bool condition, const std::string& wanted) const;

 private:
  c10::IValue value(size_t i) const;
  OnnxConverter& converter_;
  const torch::jit::Node& node_;
};

// What an operation becomes: emits nodes, returns the name of the result.
using OnnxRule = std::function<std::string(const OnnxCall&)>;
// By PyTorch's names ("aten::prelu").
const std::map<std::string, OnnxRule>& onnx_rules();

// Nodes and weights of a module of trace_network(), and the names that its input and result get;
// the caller fills in the rest of the model. Throws for an operation without a rule.
OnnxModel convert_to_onnx(const torch::jit::Module& module, const std::string& input,
                          const std::string& output);

}  // namespace facetrain
