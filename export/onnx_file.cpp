#include "export/onnx_file.h"

#include <ATen/ops/empty.h>

#include <cstring>
#include <set>

#include "core/check.h"

namespace facetrain {
namespace {

// Field numbers of onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto).
namespace model_field {
constexpr int kIrVersion = 1, kProducer = 2, kProducerVersion = 3, kGraph = 7, kOpsets = 8,
              kMetadata = 14;
}
namespace graph_field {
constexpr int kNodes = 1, kName = 2, kInitializers = 5, kInputs = 11, kOutputs = 12;
}
namespace node_field {
constexpr int kInputs = 1, kOutputs = 2, kName = 3, kOp = 4, kAttributes = 5;
}
namespace attribute_field {
constexpr int kName = 1, kFloat = 2, kInt = 3, kInts = 8, kType = 20;
}
namespace tensor_field {
constexpr int kDims = 1, kType = 2, kName = 8, kRaw = 9, kExternal = 13;
}
constexpr int kElementFloat = 1, kElementInt64 = 7;  // TensorProto.DataType
constexpr int64_t kAttributeFloat = 1, kAttributeInt = 2, kAttributeInts = 7;  // AttributeProto

ProtobufWriter encode_tensor(const std::string& name, const at::Tensor& tensor) {
  const at::Tensor values = tensor.detach().cpu().contiguous();
  FT_CHECK(values.scalar_type() == at::kFloat || values.scalar_type() == at::kLong,
           "'{}' is {}; ONNX files are written in float32", name,
           c10::toString(values.scalar_type()));
  ProtobufWriter out;
  for (const int64_t dim : values.sizes()) out.integer(tensor_field::kDims, dim);
  out.integer(tensor_field::kType,
              values.scalar_type() == at::kFloat ? kElementFloat : kElementInt64);
  out.text(tensor_field::kName, name);
  out.text(tensor_field::kRaw,
           {static_cast<const char*>(values.const_data_ptr()), values.nbytes()});
  return out;
}

ProtobufWriter encode_attribute(const std::string& name, const OnnxAttribute& value) {
  ProtobufWriter out;
  out.text(attribute_field::kName, name);
  if (const auto* number = std::get_if<int64_t>(&value)) {
    out.integer(attribute_field::kInt, *number);
    out.integer(attribute_field::kType, kAttributeInt);
  } else if (const auto* real = std::get_if<float>(&value)) {
    out.number(attribute_field::kFloat, *real);
    out.integer(attribute_field::kType, kAttributeFloat);
  } else {
    for (const int64_t entry : std::get<std::vector<int64_t>>(value))
      out.integer(attribute_field::kInts, entry);
    out.integer(attribute_field::kType, kAttributeInts);
  }
  return out;
}

ProtobufWriter encode_node(const OnnxNode& node) {
  ProtobufWriter out;
  for (const auto& input : node.inputs) out.text(node_field::kInputs, input);
  for (const auto& output : node.outputs) out.text(node_field::kOutputs, output);
  out.text(node_field::kName, node.name);
  out.text(node_field::kOp, node.op);
  for (const auto& [name, value] : node.attributes)
    out.message(node_field::kAttributes, encode_attribute(name, value));
  return out;
}

// ValueInfoProto { name, TypeProto { tensor_type { elem_type, TensorShapeProto { dim... } } } }
ProtobufWriter encode_value(const OnnxValue& value) {
  ProtobufWriter shape, tensor, type, out;
  for (const int64_t dim : value.dims) {
    ProtobufWriter entry;
    if (dim == kDynamicBatch)
      entry.text(2, kBatchName);
    else
      entry.integer(1, dim);
    shape.message(1, entry);
  }
  tensor.integer(1, kElementFloat);
  tensor.message(2, shape);
  type.message(1, tensor);
  out.text(1, value.name);
  out.message(2, type);
  return out;
}

ProtobufWriter encode_graph(const OnnxModel& model) {
  ProtobufWriter out;
  for (const auto& node : model.nodes) out.message(graph_field::kNodes, encode_node(node));
  out.text(graph_field::kName, "network");
  for (const auto& [name, tensor] : model.initializers)
    out.message(graph_field::kInitializers, encode_tensor(name, tensor));
  out.message(graph_field::kInputs, encode_value(model.input));
  out.message(graph_field::kOutputs, encode_value(model.output));
  return out;
}

// Calls `visit` with every field of a message.
template <class Visit>
void walk(std::string_view message, Visit&& visit) {
  ProtobufReader reader(message);
  while (const auto field = reader.next()) visit(*field);
}

void append(std::vector<int64_t>& to, const std::vector<int64_t>& values) {
  to.insert(to.end(), values.begin(), values.end());
}

std::pair<std::string, at::Tensor> decode_tensor(std::string_view message) {
  std::string name;
  std::vector<int64_t> dims;
  int64_t type = 0;
  std::string_view raw;
  walk(message, [&](const ProtobufField& field) {
    if (field.field == tensor_field::kDims) append(dims, field.integers());
    if (field.field == tensor_field::kType) type = field.integer();
    if (field.field == tensor_field::kName) name = field.text();
    if (field.field == tensor_field::kRaw) raw = field.bytes();
    FT_CHECK(field.field != tensor_field::kExternal, "ONNX: weights in other files are not read");
  });
  FT_CHECK(type == kElementFloat || type == kElementInt64,
           "ONNX: '{}' has element type {}, wanted float32 (1) or int64 (7)", name, type);
  uint64_t bytes = type == kElementFloat ? 4 : 8;
  for (const int64_t dim : dims) {
    // Each factor is at most the file's length, so the product cannot wrap around.
    FT_CHECK(dim >= 0 && static_cast<uint64_t>(dim) <= raw.size() && bytes <= raw.size(),
             "ONNX: '{}' has shape [{}] and {} bytes", name, fmt::join(dims, ", "), raw.size());
    bytes *= static_cast<uint64_t>(dim);
  }
  FT_CHECK(bytes == raw.size(), "ONNX: '{}' has shape [{}] and {} bytes", name,
           fmt::join(dims, ", "), raw.size());
  const at::Tensor tensor = at::empty(dims, type == kElementFloat ? at::kFloat : at::kLong);
  if (!raw.empty()) std::memcpy(tensor.mutable_data_ptr(), raw.data(), raw.size());
  return {name, tensor};
}

std::pair<std::string, OnnxAttribute> decode_attribute(std::string_view message) {
  std::string name;
  int64_t type = 0, number = 0;
  float real = 0;
  std::vector<int64_t> list;
  walk(message, [&](const ProtobufField& field) {
    if (field.field == attribute_field::kName) name = field.text();
    if (field.field == attribute_field::kType) type = field.integer();
    if (field.field == attribute_field::kInt) number = field.integer();
    if (field.field == attribute_field::kFloat) real = field.float_number();
    if (field.field == attribute_field::kInts) append(list, field.integers());
  });
  if (type == kAttributeInt) return {name, number};
  if (type == kAttributeFloat) return {name, real};
  FT_CHECK(type == kAttributeInts, "ONNX: attribute '{}' has type {}, wanted FLOAT, INT or INTS",
           name, type);
  return {name, list};
}

OnnxNode decode_node(std::string_view message) {
  OnnxNode node;
  walk(message, [&](const ProtobufField& field) {
    if (field.field == node_field::kInputs) node.inputs.push_back(field.text());
    if (field.field == node_field::kOutputs) node.outputs.push_back(field.text());
    if (field.field == node_field::kName) node.name = field.text();
    if (field.field == node_field::kOp) node.op = field.text();
    if (field.field == node_field::kAttributes)
      node.attributes.push_back(decode_attribute(field.bytes()));
  });
  return node;
}

std::vector<int64_t> decode_shape(std::string_view message) {
  std::vector<int64_t> dims;
  walk(message, [&dims](const ProtobufField& dim) {
    if (dim.field != 1) return;
    dims.push_back(kDynamicBatch);
    walk(dim.bytes(), [&dims](const ProtobufField& field) {
      if (field.field == 1) dims.back() = field.integer();
    });
  });
  return dims;
}

OnnxValue decode_value(std::string_view message) {
  OnnxValue value;
  walk(message, [&value](const ProtobufField& field) {
    if (field.field == 1) value.name = field.text();
    if (field.field != 2) return;
    walk(field.bytes(), [&value](const ProtobufField& type) {
      FT_CHECK(type.field == 1, "ONNX: '{}' is no tensor", value.name);
      walk(type.bytes(), [&value](const ProtobufField& tensor) {
        FT_CHECK(tensor.field != 1 || tensor.integer() == kElementFloat,
                 "ONNX: '{}' is not float32", value.name);
        if (tensor.field == 2) value.dims = decode_shape(tensor.bytes());
      });
    });
  });
  return value;
}

void decode_graph(std::string_view message, OnnxModel& model) {
  int inputs = 0, outputs = 0;
  walk(message, [&](const ProtobufField& field) {
    if (field.field == graph_field::kNodes) model.nodes.push_back(decode_node(field.bytes()));
    if (field.field == graph_field::kInitializers)
      model.initializers.push_back(decode_tensor(field.bytes()));
    if (field.field == graph_field::kInputs) model.input = decode_value(field.bytes()), ++inputs;
    if (field.field == graph_field::kOutputs) model.output = decode_value(field.bytes()), ++outputs;
  });
  FT_CHECK(inputs == 1 && outputs == 1, "ONNX: wanted one input and one output, found {} and {}",
           inputs, outputs);
}

}  // namespace

void check_onnx_size(const OnnxModel& model) {
  uint64_t bytes = 0;
  for (const auto& [name, tensor] : model.initializers) bytes += tensor.nbytes() + name.size() + 64;
  constexpr uint64_t kRest = 16 << 20;  // nodes and metadata of the largest networks
  FT_CHECK(bytes + kRest <= kLargestOnnx,
           "this network has {:.2f} GB of weights and an ONNX file holds 2 GB (a limit of its "
           "encoding): export it --to safetensors",
           static_cast<double>(bytes) / 1e9);
}

ProtobufWriter encode_onnx(const OnnxModel& model) {
  ProtobufWriter out, opset;
  out.integer(model_field::kIrVersion, model.ir_version);
  out.text(model_field::kProducer, model.producer);
  out.text(model_field::kProducerVersion, model.producer_version);
  out.message(model_field::kGraph, encode_graph(model));
  opset.text(1, "");  // the standard operators
  opset.integer(2, model.opset);
  out.message(model_field::kOpsets, opset);
  for (const auto& [key, value] : model.metadata) {
    ProtobufWriter entry;
    entry.text(1, key);
    entry.text(2, value);
    out.message(model_field::kMetadata, entry);
  }
  return out;
}

OnnxModel decode_onnx(std::string_view bytes) {
  OnnxModel model;
  model.ir_version = model.opset = 0;
  walk(bytes, [&model](const ProtobufField& field) {
    if (field.field == model_field::kIrVersion) model.ir_version = field.integer();
    if (field.field == model_field::kProducer) model.producer = field.text();
    if (field.field == model_field::kProducerVersion) model.producer_version = field.text();
    if (field.field == model_field::kGraph) decode_graph(field.bytes(), model);
    if (field.field == model_field::kOpsets)
      walk(field.bytes(), [&model](const ProtobufField& opset) {
        FT_CHECK(opset.field != 1 || opset.bytes().empty(), "ONNX: operators of '{}' are not known",
                 opset.text());
        if (opset.field == 2) model.opset = opset.integer();
      });
    if (field.field == model_field::kMetadata) {
      std::string key, value;
      walk(field.bytes(), [&](const ProtobufField& entry) {
        if (entry.field == 1) key = entry.text();
        if (entry.field == 2) value = entry.text();
      });
      model.metadata[key] = value;
    }
  });
  return model;
}

void check_onnx_graph(const OnnxModel& model) {
  std::set<std::string> defined{model.input.name}, used;
  for (const auto& [name, tensor] : model.initializers)
    FT_CHECK(!name.empty() && defined.insert(name).second, "ONNX: two tensors are called '{}'",
             name);
  for (const auto& node : model.nodes) {
    for (const auto& input : node.inputs) {
      FT_CHECK(input.empty() || defined.contains(input),
               "ONNX: node '{}' ({}) takes '{}', which nothing before it gives", node.name, node.op,
               input);
      used.insert(input);
    }
    FT_CHECK(!node.op.empty() && !node.outputs.empty(), "ONNX: node '{}' gives nothing", node.name);
    for (const auto& output : node.outputs)
      FT_CHECK(!output.empty() && defined.insert(output).second,
               "ONNX: node '{}' ({}) gives '{}', which is there already", node.name, node.op,
               output);
  }
  for (const auto& [name, tensor] : model.initializers)
    FT_CHECK(used.contains(name), "ONNX: no node takes the tensor '{}'", name);
  FT_CHECK(!model.nodes.empty() && used.contains(model.input.name) &&
               model.nodes.back().outputs.front() == model.output.name,
           "ONNX: wanted a graph from '{}' to '{}', which the last node gives", model.input.name,
           model.output.name);
}

}  // namespace facetrain
