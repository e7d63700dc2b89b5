// ONNX models (https://onnx.ai/onnx/repo-docs/IR.html) as far as a face network needs them: one
// graph with one input and one output, nodes of the standard operators, weights as raw data.
//
// Encoded and decoded by our own protobuf (core/protobuf.h). decode_onnx(encode_onnx(m)) is m.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "core/protobuf.h"

namespace facetrain {

using OnnxAttribute = std::variant<int64_t, float, std::vector<int64_t>>;

struct OnnxNode {
  std::string op, name;
  std::vector<std::string> inputs, outputs;  // "": an optional input that is left out
  std::vector<std::pair<std::string, OnnxAttribute>> attributes;
};

// Input or output of the graph: float32, with kDynamicBatch where the number of images stands.
struct OnnxValue {
  std::string name;
  std::vector<int64_t> dims;
};
constexpr int64_t kDynamicBatch = -1;
constexpr const char* kBatchName = "batch";  // what the file calls it

struct OnnxModel {
  int64_t ir_version = 7, opset = 13;
  std::string producer, producer_version;
  std::map<std::string, std::string> metadata;
  OnnxValue input, output;
  std::vector<std::pair<std::string, at::Tensor>> initializers;  // float32 or int64
  std::vector<OnnxNode> nodes;
};

// The largest file that protobuf allows, and what a check for it says about so many bytes of
// weights.
constexpr uint64_t kLargestOnnx = (uint64_t{1} << 31) - 1;
// Throws when the weights leave no room for the rest in kLargestOnnx.
void check_onnx_size(const OnnxModel& model);

ProtobufWriter encode_onnx(const OnnxModel& model);
// Throws for bytes that are no such model: damaged, of another element type, weights whose size is
// not that of their shape, weights in other files. `bytes` may go afterwards.
OnnxModel decode_onnx(std::string_view bytes);

// Throws unless every input of every node is defined before it and used by its name only once as an
// output, every weight is used, and the graph's output is some node's.
void check_onnx_graph(const OnnxModel& model);

}  // namespace facetrain
