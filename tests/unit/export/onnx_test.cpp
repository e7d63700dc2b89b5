// ONNX files: encoding, structure, every rule of the converter on networks made for it, and what a
// network that cannot be written is told.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <set>
#include <sstream>

#include "core/random.h"
#include "core/safetensors.h"
#include "core/torch.h"
#include "export/exporter.h"
#include "export/onnx_convert.h"
#include "export/onnx_run.h"
#include "export/trace.h"
#include "models/layers.h"
#include "tests/support/error_of.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;
using torch::Tensor;

OnnxModel small_model() {
  OnnxModel model;
  model.producer = "somebody";
  model.producer_version = "1.2";
  model.metadata = {{"key", "value"}, {"unicode", "Zoë"}};
  model.input = {"data", {kDynamicBatch, 3, 4, 4}};
  model.output = {"embedding", {kDynamicBatch, 2}};
  model.initializers = {{"w", torch::arange(96, torch::kFloat).view({2, 48})},
                        {"scalar", torch::tensor(0.5)},
                        {"shape", torch::tensor(std::vector<int64_t>{0, -1}, torch::kLong)}};
  model.nodes = {
      {"Reshape", "first", {"data", "shape"}, {"flat"}, {}},
      {"Gemm", "second", {"flat", "w"}, {"product"}, {{"transB", int64_t{1}}, {"alpha", 0.25F}}},
      {"Mul", "third", {"product", "scalar"}, {"turned"}, {}},
      {"Transpose", "last", {"turned"}, {"embedding"}, {{"perm", std::vector<int64_t>{0, 1}}}}};
  return model;
}

TEST(OnnxFile, DecodesWhatItEncodes) {
  const OnnxModel model = small_model();
  const OnnxModel again = decode_onnx(encode_onnx(model).bytes());
  EXPECT_EQ(again.ir_version, 7);
  EXPECT_EQ(again.opset, 13);
  EXPECT_EQ(again.producer + again.producer_version, "somebody1.2");
  EXPECT_EQ(again.metadata, model.metadata);
  EXPECT_EQ(again.input.dims, model.input.dims);
  EXPECT_EQ(again.output.name, "embedding");
  ASSERT_EQ(again.initializers.size(), 3u);
  for (size_t k = 0; k < 3; ++k) {
    EXPECT_EQ(again.initializers[k].first, model.initializers[k].first);
    EXPECT_TRUE(same_bits(again.initializers[k].second, model.initializers[k].second));
  }
  ASSERT_EQ(again.nodes.size(), model.nodes.size());
  for (size_t k = 0; k < model.nodes.size(); ++k) {
    EXPECT_EQ(again.nodes[k].op, model.nodes[k].op);
    EXPECT_EQ(again.nodes[k].name, model.nodes[k].name);
    EXPECT_EQ(again.nodes[k].inputs, model.nodes[k].inputs);
    EXPECT_EQ(again.nodes[k].outputs, model.nodes[k].outputs);
    EXPECT_EQ(again.nodes[k].attributes, model.nodes[k].attributes);
  }
  EXPECT_NO_THROW(check_onnx_graph(again));
  // y = x W^T / 8, worked out without the runner.
  const auto x = torch::arange(96, torch::kFloat).view({2, 3, 4, 4});
  const auto expected = torch::mm(x.view({2, 48}), model.initializers[0].second.t()) / 8;
  EXPECT_TRUE(torch::allclose(run_onnx(again, x), expected, 1e-6, 0));
}

TEST(OnnxFile, StructureIsChecked) {
  EXPECT_NO_THROW(check_onnx_graph(small_model()));
  const auto broken = [](auto&& change) {
    OnnxModel model = small_model();
    change(model);
    return error_of([&] { check_onnx_graph(model); });
  };
  expect_parts(broken([](OnnxModel& m) { std::swap(m.nodes[0], m.nodes[1]); }),
               {"'second'", "takes 'flat'", "nothing before it"});
  expect_parts(broken([](OnnxModel& m) { m.nodes[1].outputs[0] = "flat"; }), {"gives 'flat'"});
  expect_parts(broken([](OnnxModel& m) { m.initializers[1].first = "w"; }), {"two tensors"});
  expect_parts(broken([](OnnxModel& m) {
                 m.initializers.push_back({"spare", torch::ones(1)});
               }),
               {"no node takes", "spare"});
  expect_parts(broken([](OnnxModel& m) { m.output.name = "other"; }), {"from 'data' to 'other'"});
  expect_parts(broken([](OnnxModel& m) { m.nodes[0].inputs[0] = "w"; }), {"from 'data'"});
}

TEST(OnnxFile, WeightsThatDoNotFitAreErrors) {
  OnnxModel model = small_model();
  // 2^29 floats that take no memory.
  model.initializers[0].second = torch::zeros(1).expand({1 << 29});
  expect_error([&] { check_onnx_size(model); }, {"2.15 GB", "2 GB", "safetensors"});
  EXPECT_NO_THROW(check_onnx_size(small_model()));
  model = small_model();
  model.initializers[0].second = torch::ones({2, 2}, torch::kDouble);
  expect_error([&] { encode_onnx(model); }, {"'w' is Double", "float32"});
  // A shape that does not belong to its bytes.
  std::string bytes = encode_onnx(small_model()).bytes();
  const size_t dims = bytes.find("\x08\x02\x08\x30\x10\x01\x42\x01w");
  ASSERT_NE(dims, std::string::npos);
  bytes[dims + 1] = 3;
  expect_error([&] { decode_onnx(bytes); }, {"'w' has shape [3, 48] and 384 bytes"});
}

TEST(OnnxFile, AnyBytesEndInAnErrorOrAModel) {
  const std::string whole = encode_onnx(small_model()).bytes();
  Random random(random_key(29, 1));
  int errors = 0;
  for (int trial = 0; trial < 3000; ++trial) {
    std::string bytes = whole;
    for (int change = 0; change < 2; ++change)
      bytes[static_cast<size_t>(random.below(static_cast<int64_t>(bytes.size())))] =
          static_cast<char>(random.below(256));
    if (trial % 3 == 0)
      bytes.resize(static_cast<size_t>(random.below(static_cast<int64_t>(bytes.size()))));
    try {
      check_onnx_graph(decode_onnx(bytes));
    } catch (const Error&) {
      ++errors;
    }
  }
  EXPECT_GT(errors, 1000);
  EXPECT_LT(errors, 3000);
}

// A network that is one function of images [B, 3, 16, 16] and a few weights.
class Toy : public Backbone {
 public:
  using Forward = std::function<Tensor(Toy&, const Tensor&)>;
  Toy(int64_t dim, Forward forward)
      : Backbone([dim] {
          CommonModelOptions options;
          options.embedding = dim;
          return options;
        }()),
        forward_(std::move(forward)) {
    const auto weight = [this](const std::string& name, std::vector<int64_t> shape) {
      const auto steps = torch::arange(c10::multiply_integers(shape), torch::kFloat) * 0.37F;
      return register_parameter(name, (steps.sin() * 0.5).view(shape));
    };
    square = weight("square", {12, 12});
    bias = weight("bias", {12});
    slopes = weight("slopes", {3});
    eval();
  }
  Features forward(const Tensor& images) override {
    return {.embedding = forward_(*this, images), .tokens = {}, .pyramid = {}};
  }
  int64_t image_size() const override { return 16; }
  Tensor square, bias, slopes;

 private:
  Forward forward_;
};

// [B, 3, 16, 16] -> [B, 4, 12]
Tensor tokens(const Tensor& x) {
  return at::adaptive_avg_pool2d(x, {4, 4}).reshape({-1, 12, 4}).transpose(1, 2);
}

struct ToyCase {
  std::string name;
  int64_t dim;
  Toy::Forward forward;
};

// Each of the converter's rules stands in one of these.
const std::vector<ToyCase>& toy_cases() {
  static const std::vector<ToyCase> cases{
      {"attention", 12,
       [](Toy& n, const Tensor& x) {
         const auto t = at::layer_norm(tokens(x), {12}, n.bias, n.bias, 1e-6);
         const auto q = at::linear(t, n.square, n.bias), k = at::matmul(t, n.square);
         const auto heads = [](const Tensor& y) {
           return y.view({-1, 4, 3, 4}).permute({0, 2, 1, 3});
         };
         const auto scores = at::matmul(heads(q), heads(k).transpose(-2, -1)) / 2;
         const auto mixed = at::matmul(at::softmax(scores, -1), heads(t)).permute({0, 2, 1, 3});
         const auto y = t + mixed.flatten(2);
         return at::gelu(at::cat({y.select(1, 0), y.mean(1)}, 1).unsqueeze(1).squeeze(1))
             .slice(1, 6, 18);
       }},
      {"arithmetic", 12,
       [](Toy& n, const Tensor& x) {
         const auto y = tokens(x).select(1, -1);
         const auto z = at::add(y, n.bias, 2).sub(0.25, 3).mul(1.5).div(y * y + 1);
         const auto v =
             at::sqrt(at::sigmoid(z)) + at::tanh(z) - at::silu(z) + at::leaky_relu(z, 0.2);
         const auto w = at::addmm(n.bias, v.detach(), n.square.t(), 0.5, 2);
         return at::gelu(w, "tanh").clone().alias();
       }},
      {"pooling", 12,
       [](Toy& n, const Tensor& x) {
         const auto y = at::prelu(x, n.slopes);
         const auto a = at::max_pool2d(y, {3, 3}, {2, 2}, {1, 1});
         const auto b = at::avg_pool2d(at::relu(y), {2, 2});
         const auto c =
             at::avg_pool2d(y, {3, 3}, {2, 2}, {1, 1}, false, /*count_include_pad=*/true);
         const auto all = at::adaptive_avg_pool2d(
             at::cat({a, b, c, y.slice(2, 1, c10::nullopt, 2).slice(3, 0, 16, 2).contiguous()}, 1),
             {1, 1});
         return all.flatten(1);
       }},
      {"products", 12,
       [](Toy& n, const Tensor& x) {
         const auto first = n.bias.view({1, 1, 12});  // before every image's tokens
         const auto t = at::cat({first.expand_as(tokens(x).slice(1, 0, 1)), tokens(x)}, 1);
         const auto gram = at::bmm(t.transpose(1, 2), t);  // [B, 12, 12]
         const auto mixed = at::linear(gram.mean({2}, true).squeeze(-1), n.square);
         return at::prelu(at::hardtanh(mixed, -2, 0.75), n.bias);
       }},
      {"windows", 12,
       [](Toy& n, const Tensor& x) {
         const auto map = at::roll(tokens(x).view({-1, 2, 2, 12}), {1, -1}, {1, 2});
         const auto t = at::constant_pad_nd(map, {0, 0, 1, 0, 0, 1}, 0.5).flatten(1, 2);
         const auto index = torch::tensor({3, 0, 5, 5, 1, 2, 8, 7, 4});  // rows, [9, 12]
         const auto mask = at::softplus(at::embedding(n.square, index).slice(1, 0, 9));
         const auto heads = t.view({-1, 9, 3, 4}).transpose(1, 2);  // [B, 3, 9, 4]
         const auto y = at::scaled_dot_product_attention(
             heads, heads * 2, heads, mask.unsqueeze(0).expand({3, -1, -1}).unsqueeze(0));
         const auto z = at::scaled_dot_product_attention(y, heads, heads, {}, 0, false, 0.25);
         return (y - z).transpose(1, 2).flatten(2).mean({1});
       }},
      {"convolution", 12,
       [](Toy& n, const Tensor& x) {
         const auto weight = n.square.view({12, 3, 2, 2});
         const auto y = at::conv2d(x, weight, n.bias, {2, 2}, {1, 1}, {2, 2});
         const auto z = at::batch_norm(y, {}, {}, n.bias, n.bias * n.bias, false, 0, 1e-3, false);
         const auto depthwise = n.square.slice(1, 0, 1).unsqueeze(2).unsqueeze(3);
         const std::vector<int64_t> one{1, 1}, none{0, 0};
         return at::conv2d(z, depthwise, Tensor(), one, none, one, 12).mean({-2, -1});
       }},
  };
  return cases;
}

fs::path target(const std::string& name) {
  const fs::path folder = fs::path(::testing::TempDir()) / "onnx";
  fs::create_directories(folder);
  return folder / name;
}

const Config& onnx_section() {
  static const Config section = Config::parse("{name: onnx}");
  return section;
}

// Where FACETRAIN_EXCHANGE names a folder: the file with inputs and outputs for onnxruntime.
void exchange(const std::string& name, Toy& toy) {
  const char* folder = std::getenv("FACETRAIN_EXCHANGE");
  if (!folder) return;
  fs::create_directories(folder);
  const fs::path file = fs::path(folder) / ("toy_" + name);
  write_export(onnx_section(), toy, {"{}", "toy " + name}, file.string() + ".onnx");
  NamedTensors pairs;
  for (const int64_t batch : {1, 3, 8}) {
    const auto input = probe_images(toy, batch);
    pairs.emplace_back("input_" + std::to_string(batch), input);
    pairs.emplace_back("output_" + std::to_string(batch), toy.forward(input).embedding);
  }
  save_safetensors(file.string() + ".expected", pairs);
}

TEST(OnnxRules, EveryRuleGivesTheNetworksOutputs) {
  const torch::NoGradGuard no_grad;
  std::set<std::string> seen;
  for (const auto& [name, dim, forward] : toy_cases()) {
    SCOPED_TRACE(name);
    Toy toy(dim, forward);
    const auto module = trace_network(toy);
    for (const auto* node : module.get_method("forward").graph()->nodes())
      seen.insert(node->kind().toQualString());
    // Writing verifies: outputs of what was written against the network's at 1 and 3 images.
    write_export(onnx_section(), toy, {"{}", "toy " + name}, target(name + ".onnx"));
    // And once more at 5, so that this test does not rest on the exporter's word.
    const OnnxModel model = convert_to_onnx(module, "data", "embedding");
    const auto images = probe_images(toy, 5);
    const auto expected = toy.forward(images).embedding;
    exchange(name, toy);
    EXPECT_LE((run_onnx(model, images) - expected).abs().max().item<float>(),
              1e-5 * expected.abs().max().item<float>());
  }
  for (const auto& [kind, rule] : onnx_rules()) EXPECT_TRUE(seen.contains(kind)) << kind;
}

TEST(OnnxRules, LayerNormNeedsItsOperatorSet) {
  Toy toy(12, toy_cases()[0].forward);
  write_export(onnx_section(), toy, {"{}", "toy"}, target("a.onnx"));
  std::ostringstream bytes;
  bytes << std::ifstream(target("a.onnx"), std::ios::binary).rdbuf();
  const OnnxModel model = decode_onnx(bytes.str());
  EXPECT_EQ(model.opset, 17);
  EXPECT_EQ(model.ir_version, 8);
}

TEST(OnnxRules, AnOperationWithoutARuleIsNamed) {
  Toy toy(12, [](Toy&, const Tensor& x) { return at::cumsum(tokens(x).select(1, 0), 1); });
  expect_error([&] { write_export(onnx_section(), toy, {}, target("x.onnx")); },
               {"aten::cumsum", "torchscript", "onnx_rules.cpp"});
  EXPECT_FALSE(fs::exists(target("x.onnx")));
  EXPECT_FALSE(fs::exists(target("x.onnx.partial")));
}

TEST(OnnxRules, TransposedConvolutionIsRefused) {
  Toy toy(12, [](Toy& n, const Tensor& x) {
    return at::conv_transpose2d(x, n.square.view({3, 12, 2, 2})).mean({2, 3});
  });
  expect_error([&] { write_export(onnx_section(), toy, {}, target("x.onnx")); },
               {"aten::_convolution", "no transposed convolution"});
}

TEST(Trace, ANumberOfImagesInTheForwardIsFound) {
  Toy toy(12, [](Toy&, const Tensor& x) {
    return at::adaptive_avg_pool2d(x, {2, 2}).reshape({x.size(0), 12});
  });
  expect_error([&] { trace_network(toy); }, {"traced", "1 images"});
  Toy values(12, [](Toy&, const Tensor& x) {
    const auto y = tokens(x).select(1, 0);
    return y * y.max().item<double>();
  });
  expect_error([&] { trace_network(values); }, {"other embeddings"});
}

// Batch norm knows its statistics only after training; MobileFaceNet's flatten is the one that
// others bake the number of images into (insightface issue 2406).
TEST(OnnxExporter, HasDynamicBatchMetadataAndPublicNames) {
  const auto network =
      create_backbone(Config::parse("{name: mobilefacenet, width: 0.125, embedding: 16}"), {3, 64});
  network->eval();
  ExportInfo info{"model: {name: mobilefacenet}\n", "run r"};
  info.mean = {1, 2, 3.5};
  write_export(onnx_section(), *network, info, target("m.onnx"));
  std::ostringstream bytes;
  bytes << std::ifstream(target("m.onnx"), std::ios::binary).rdbuf();
  const OnnxModel model = decode_onnx(bytes.str());
  EXPECT_EQ(model.input.name, "data");
  EXPECT_EQ(model.input.dims, (std::vector<int64_t>{kDynamicBatch, 3, 64, 64}));
  EXPECT_EQ(model.output.name, "embedding");
  EXPECT_EQ(model.output.dims, (std::vector<int64_t>{kDynamicBatch, 16}));
  EXPECT_EQ(model.opset, 13);
  EXPECT_EQ(model.metadata.at("facetrain.config"), info.config);
  EXPECT_EQ(model.metadata.at("facetrain.origin"), "run r");
  EXPECT_EQ(model.metadata.at("input.mean"), "1 2 3.5");
  EXPECT_EQ(model.metadata.at("input.deviation"), "127.5 127.5 127.5");
  EXPECT_EQ(model.metadata.at("input.color_order"), "RGB");
  // 64 is a multiple of neither 112 nor 128: scaled from 112. The nose's x: 56.0252 * 64 / 112.
  EXPECT_NE(model.metadata.at("input.template").find("[32.0144"), std::string::npos)
      << model.metadata.at("input.template");
  std::map<std::string, Tensor> written(model.initializers.begin(), model.initializers.end());
  int64_t weights = 0;
  for (const auto& [name, tensor] : public_tensors(*network)) {
    if (name.ends_with("num_batches_tracked")) continue;
    ASSERT_TRUE(written.contains(name)) << name;
    EXPECT_TRUE(same_bits(written.at(name).reshape(tensor.sizes()), tensor)) << name;
    ++weights;
  }
  EXPECT_GT(weights, 100);
}

}  // namespace
}  // namespace facetrain
