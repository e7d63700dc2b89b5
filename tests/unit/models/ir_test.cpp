// IR and IR-SE: the names of the public files, and their published size and arithmetic.
#include <ATen/record_function.h>
#include <gtest/gtest.h>

#include <set>

#include "models/backbone.h"

namespace facetrain {
namespace {

std::shared_ptr<Backbone> make(const std::string& name, const std::string& options = "",
                               int64_t size = 112) {
  return create_backbone(Config::parse("name: " + name + "\n" + options),
                         {.seed = 7, .image_size = size});
}

struct Family {
  const char* name;
  std::vector<int> blocks;
  bool bottleneck, squeeze;
  int64_t parameters, macs;  // at width 0.25 and 128-d, by count_parameters.py beside this
};
const std::vector<Family> kFamilies{
    {"ir_18", {2, 2, 2, 2}, false, false, 1504608, 166383616},
    {"ir_34", {3, 4, 6, 3}, false, false, 2139152, 281989120},
    {"ir_50", {3, 4, 14, 3}, false, false, 2732560, 397594624},
    {"ir_101", {3, 13, 30, 3}, false, false, 4087280, 758861824},
    {"ir_152", {3, 8, 36, 3}, true, false, 6903584, 809840640},
    {"ir_200", {3, 24, 36, 3}, true, false, 7193376, 1028206592},
    {"ir_se_50", {3, 4, 14, 3}, false, true, 2746480, 397608544},
    {"ir_se_101", {3, 13, 30, 3}, false, true, 4110544, 758885088},
    {"ir_se_152", {3, 8, 36, 3}, true, true, 7314720, 810251776},
    {"ir_se_200", {3, 24, 36, 3}, true, true, 7637280, 1028650496},
};

void add_norm(std::set<std::string>& names, const std::string& prefix, bool affine = true) {
  for (const char* part : {"weight", "bias"})
    if (affine) names.insert(prefix + "." + part);
  for (const char* part : {"running_mean", "running_var", "num_batches_tracked"})
    names.insert(prefix + "." + part);
}

// The keys of AdaFace's, CVLface's and TFace's files (reference/recognition.md 3.2).
std::set<std::string> public_names(const Family& family) {
  std::set<std::string> names{"input_layer.0.weight", "input_layer.2.weight",
                              "output_layer.3.weight", "output_layer.3.bias"};
  add_norm(names, "input_layer.1");
  add_norm(names, "output_layer.0");
  add_norm(names, "output_layer.4", /*affine=*/false);
  int number = 0;
  for (size_t stage = 0; stage < 4; ++stage)
    for (int k = 0; k < family.blocks[stage]; ++k) {
      const auto block = fmt::format("body.{}.", number++);
      // The first stage keeps 64 channels, unless its blocks are bottlenecks.
      if (k == 0 && (stage > 0 || family.bottleneck)) {
        names.insert(block + "shortcut_layer.0.weight");
        add_norm(names, block + "shortcut_layer.1");
      }
      const std::string path = block + "res_layer.";
      for (const char* norm : {"0", "2", "5"}) add_norm(names, path + norm);
      for (const char* rest : {"1", "3", "4"}) names.insert(path + rest + ".weight");
      if (family.bottleneck) {
        names.insert(path + "6.weight");
        names.insert(path + "7.weight");
        add_norm(names, path + "8");
      }
      if (!family.squeeze) continue;
      names.insert(path + "se_block.fc1.weight");
      names.insert(path + "se_block.fc2.weight");
    }
  return names;
}

TEST(Ir, HasThePublicNames) {
  for (const auto& family : kFamilies) {
    const auto network = make(family.name, "width: 0.03125\nembedding: 4\n", 16);
    std::set<std::string> names;
    for (const auto& item : network->named_parameters()) names.insert(item.key());
    for (const auto& item : network->named_buffers()) names.insert(item.key());
    EXPECT_EQ(names, public_names(family)) << family.name;
  }
}

TEST(Ir, HasThePublicShapes) {
  const auto shape = [](Backbone& network, const std::string& name) {
    const auto parameters = network.named_parameters();
    const auto* tensor = parameters.find(name);
    return tensor ? tensor->sizes().vec() : std::vector<int64_t>{};
  };
  using Shape = std::vector<int64_t>;
  // A quarter of theirs: 64 is 16 here, and 512 embedding dimensions are 128.
  const std::string options = "width: 0.25\nembedding: 128\n";
  const auto plain = make("ir_se_50", options), deep = make("ir_152", options);
  EXPECT_EQ(shape(*plain, "input_layer.0.weight"), (Shape{16, 3, 3, 3}));
  EXPECT_EQ(shape(*plain, "body.0.res_layer.4.weight"), (Shape{16, 16, 3, 3}));
  EXPECT_EQ(shape(*plain, "body.3.shortcut_layer.0.weight"), (Shape{32, 16, 1, 1}));
  EXPECT_EQ(shape(*plain, "body.23.res_layer.se_block.fc1.weight"), (Shape{8, 128, 1, 1}));
  EXPECT_EQ(shape(*plain, "output_layer.3.weight"), (Shape{128, 128 * 49}));
  EXPECT_EQ(shape(*deep, "body.0.shortcut_layer.0.weight"), (Shape{64, 16, 1, 1}));
  EXPECT_EQ(shape(*deep, "body.0.res_layer.4.weight"), (Shape{16, 16, 3, 3}));
  EXPECT_EQ(shape(*deep, "body.49.res_layer.7.weight"), (Shape{512, 128, 1, 1}));
  EXPECT_EQ(shape(*deep, "output_layer.3.weight"), (Shape{128, 512 * 49}));
}

// Multiplications of convolutions and linear layers, from the inputs of each call, while it lives.
class MacCounter {
 public:
  MacCounter()
      : handle_(at::addThreadLocalCallback(
            at::RecordFunctionCallback(&MacCounter::count).needsInputs(true))) {
    total_ = 0;
  }
  ~MacCounter() { at::removeCallback(handle_); }
  static int64_t total() { return total_; }

 private:
  static std::unique_ptr<at::ObserverContext> count(const at::RecordFunction& function) {
    const std::string name = function.name();
    const auto inputs = function.inputs();
    if (name == "aten::linear")
      total_ += inputs[0].toTensor().size(0) * inputs[1].toTensor().numel();
    if (name != "aten::conv2d") return nullptr;
    const auto &x = inputs[0].toTensor(), &weight = inputs[1].toTensor();
    const int64_t stride = inputs[3].toIntVector()[0], padding = inputs[4].toIntVector()[0];
    const int64_t side = (x.size(2) + 2 * padding - weight.size(2)) / stride + 1;
    total_ += x.size(0) * side * side * weight.numel();
    return nullptr;
  }
  static inline int64_t total_ = 0;
  at::CallbackHandle handle_;
};

struct Counts {
  int64_t parameters = 0, buffers = 0, macs = 0;
};
Counts count(Backbone& network) {
  Counts counts;
  for (const auto& parameter : network.parameters()) counts.parameters += parameter.numel();
  for (const auto& buffer : network.buffers()) counts.buffers += buffer.numel();
  network.eval();
  const torch::NoGradGuard no_grad;
  const MacCounter counter;
  network.forward(torch::zeros({1, 3, 112, 112}));
  counts.macs = MacCounter::total();
  return counts;
}

TEST(Ir, ParametersAndMacsAreThoseOfTheArithmetic) {
  for (const auto& family : kFamilies) {
    const auto counts = count(*make(family.name, "width: 0.25\nembedding: 128\n"));
    EXPECT_EQ(counts.parameters, family.parameters) << family.name;
    EXPECT_EQ(counts.macs, family.macs) << family.name;
  }
}

// Published: TFace's README gives files of fp32 of 92, 131, 167 and 249 MB (2^20 bytes); OpenVINO's
// model zoo gives, for the MXNet originals of IR-34 and IR-101, 8.934 and 24.2115 GFLOPs (two a
// multiplication, and norms and slopes counted: 0.5 % more) and 34.129 and 65.132 M parameters.
TEST(Ir, AgreesWithThePublishedFigures) {
  struct Published {
    const char* name;
    double megabytes, gigaflops, millions;
  };
  for (const auto& published :
       {Published{"ir_18", 92, 0, 0}, Published{"ir_34", 131, 8.934, 34.129},
        Published{"ir_50", 167, 0, 0}, Published{"ir_101", 249, 24.2115, 65.132}}) {
    const auto counts = count(*make(published.name));
    const auto values = static_cast<double>(counts.parameters + counts.buffers);
    EXPECT_NEAR(4 * values / (1 << 20), published.megabytes, 1.0) << published.name;
    if (published.gigaflops == 0) continue;
    EXPECT_NEAR(2e-9 * static_cast<double>(counts.macs), published.gigaflops,
                0.005 * published.gigaflops);
    EXPECT_NEAR(1e-6 * static_cast<double>(counts.parameters), published.millions,
                0.0005 * published.millions);
  }
}

TEST(Ir, DropsFortyPercentBeforeTheLastLayerUnlessToldOtherwise) {
  EXPECT_EQ(make("ir_18", "width: 0.03125\n", 16)->common().dropout, 0.4);
  EXPECT_EQ(make("ir_se_50", "width: 0.03125\ndropout: 0\n", 16)->common().dropout, 0.0);
}

}  // namespace
}  // namespace facetrain
