// Conformance of every registered network, at a tiny width, and the published figures of the known
// ones.
#include "models/backbone.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <set>

#include "core/deferred.h"
#include "core/safetensors.h"
#include "core/step_context.h"
#include "models/init_weights.h"
#include "models/layers.h"
#include "tests/support/tiny_backbone.h"

namespace facetrain {
namespace {

using torch::Tensor;

std::shared_ptr<Backbone> make(const std::string& name, const std::string& options = "",
                               int64_t size = 32, uint64_t seed = 7) {
  const auto section = Config::parse("name: " + name + "\n" + options);
  return create_backbone(section, {.seed = seed, .image_size = size});
}

Tensor images(int64_t batch, int64_t size, uint64_t seed) {
  auto x = torch::empty({batch, 3, size, size});
  init_uniform(x, seed, "images", -1, 1);
  return x;
}

std::map<std::string, Tensor> state(torch::nn::Module& network) {
  std::map<std::string, Tensor> all;
  for (const auto& item : network.named_parameters()) all[item.key()] = item.value().detach();
  for (const auto& item : network.named_buffers()) all[item.key()] = item.value();
  return all;
}

std::map<std::string, Tensor> copied(const std::map<std::string, Tensor>& tensors) {
  std::map<std::string, Tensor> all;
  for (const auto& [name, tensor] : tensors) all[name] = tensor.clone();
  return all;
}

std::vector<Deferred*> deferred(torch::nn::Module& network) {
  std::vector<Deferred*> all;
  for (const auto& module : network.modules())
    if (auto* found = dynamic_cast<Deferred*>(module.get())) all.push_back(found);
  return all;
}

class EveryBackbone : public testing::TestWithParam<std::string> {
 protected:
  const std::string kTiny = tiny_options(GetParam());
};

TEST_P(EveryBackbone, ShapesAndFiniteGradients) {
  for (const int64_t size : {32, 56}) {
    auto network = make(GetParam(), kTiny, size);
    EXPECT_EQ(network->image_size(), size);
    EXPECT_EQ(network->dim(), 24);
    const auto y = network->forward(images(3, size, 1)).embedding;
    ASSERT_EQ(y.sizes(), torch::IntArrayRef({3, 24}));
    EXPECT_TRUE(y.isfinite().all().item<bool>());
    y.square().mean().backward();
    for (const auto& item : network->named_parameters()) {
      if (!item.value().requires_grad()) continue;
      ASSERT_TRUE(item.value().grad().defined()) << item.key();
      EXPECT_TRUE(item.value().grad().isfinite().all().item<bool>()) << item.key();
    }
  }
}

TEST_P(EveryBackbone, ForwardChangesNothingUntilCommit) {
  auto network = make(GetParam(), kTiny);
  const auto before = copied(state(*network));
  const auto unchanged = [&] {
    for (const auto& [name, tensor] : state(*network))
      if (!tensor.equal(before.at(name))) return false;
    return true;
  };
  network->forward(images(4, 32, 2));
  EXPECT_TRUE(unchanged());
  for (auto* part : deferred(*network)) part->discard();
  for (auto* part : deferred(*network)) part->commit();  // nothing is left to commit
  EXPECT_TRUE(unchanged());
  network->forward(images(4, 32, 2));
  std::vector<Tensor> averaged;
  for (auto* part : deferred(*network)) part->collect(averaged);
  EXPECT_TRUE(unchanged());
  EXPECT_EQ(averaged.empty(), deferred(*network).empty());
  for (auto* part : deferred(*network)) part->commit();
  for (const auto& [name, tensor] : state(*network)) {
    const bool buffer = name.find("running_") != std::string::npos;
    EXPECT_EQ(tensor.equal(before.at(name)), !buffer && !name.ends_with("tracked")) << name;
  }
}

TEST_P(EveryBackbone, EvaluationIsPerSampleAndKeepsNothing) {
  auto network = make(GetParam(), kTiny);
  for (int i = 0; i < 3; ++i) {
    network->forward(images(8, 32, 10 + i));
    for (auto* part : deferred(*network)) part->commit();
  }
  network->eval();
  const auto x = images(4, 32, 3);
  const auto together = network->forward(x).embedding;
  const auto alone = network->forward(x.narrow(0, 1, 1)).embedding;
  const double scale = together.abs().max().item<double>();
  EXPECT_LE((together.narrow(0, 1, 1) - alone).abs().max().item<double>(), 1e-5 * scale);
  std::vector<Tensor> averaged;
  for (auto* part : deferred(*network)) part->collect(averaged);
  EXPECT_TRUE(averaged.empty());
}

TEST_P(EveryBackbone, InitialisationDependsOnSeedAndNameOnly) {
  const auto first = make(GetParam(), kTiny), second = make(GetParam(), kTiny);
  const auto other = make(GetParam(), kTiny, 32, 8);
  int64_t random = 0;
  const auto others = state(*other), seconds = state(*second);
  std::set<std::string> fingerprints;
  for (const auto& [name, tensor] : state(*first)) {
    EXPECT_TRUE(tensor.equal(seconds.at(name))) << name;
    const bool differs = !tensor.equal(others.at(name));
    random += differs;
    if (!differs) continue;
    // No two parameters begin with the same numbers.
    const auto head = tensor.flatten().narrow(0, 0, 4) / tensor.abs().max();
    EXPECT_TRUE(fingerprints.insert(fmt::format("{}", head.sum().item<double>())).second) << name;
  }
  EXPECT_GE(random, 10);
}

TEST_P(EveryBackbone, StateSurvivesAFile) {
  const auto file = std::filesystem::path(testing::TempDir()) / (GetParam() + ".safetensors");
  const auto from = make(GetParam(), kTiny, 32, 1);
  for (const char* prefix : {"", "backbone."}) {
    NamedTensors tensors;
    for (const auto& [name, tensor] : state(*from)) tensors.emplace_back(prefix + name, tensor);
    if (*prefix) tensors.emplace_back("classifier.bias", torch::zeros({3}));
    save_safetensors(file, tensors);
    const auto to = make(GetParam(), kTiny + "init: " + file.string() + "\n", 32, 2);
    const auto loaded = state(*to);
    for (const auto& [name, tensor] : state(*from)) EXPECT_TRUE(tensor.equal(loaded.at(name)));
  }
  std::filesystem::remove(file);
}

TEST_P(EveryBackbone, ChannelsLastAndDoubleAgree) {
  auto plain = make(GetParam(), kTiny), last = make(GetParam(), kTiny);
  to_dtype(*plain, torch::kDouble);
  to_dtype(*last, torch::kDouble);
  to_channels_last(*last);
  for (const auto& item : last->named_parameters()) {
    if (item.value().dim() != 4) continue;
    EXPECT_TRUE(item.value().is_contiguous(at::MemoryFormat::ChannelsLast)) << item.key();
  }
  for (const auto& item : last->named_buffers())
    if (item.key().ends_with("tracked")) {
      EXPECT_EQ(item.value().scalar_type(), torch::kLong);
    }
  const auto x = images(3, 32, 4).to(torch::kDouble);
  const auto y = plain->forward(x).embedding;
  const auto z = last->forward(x.contiguous(at::MemoryFormat::ChannelsLast)).embedding;
  EXPECT_LE((y - z).abs().max().item<double>(), 1e-9 * y.abs().max().item<double>());
  y.pow(3).sum().backward();
  z.pow(3).sum().backward();
  // A bias whose shift the next norm removes has no gradient but rounding: so a part of the largest
  // is allowed.
  const auto expected = plain->named_parameters();
  double largest = 0;
  for (const auto& item : expected)
    if (item.value().requires_grad())
      largest = std::max(largest, item.value().grad().norm().item<double>());
  for (const auto& item : last->named_parameters()) {
    if (!item.value().requires_grad()) continue;
    const auto& gradient = expected[item.key()].grad();
    EXPECT_LE((gradient - item.value().grad()).norm().item<double>(),
              1e-7 * gradient.norm().item<double>() + 1e-10 * largest)
        << item.key();
  }
}

TEST_P(EveryBackbone, DropoutFollowsThePositions) {
  auto options = kTiny;
  options.replace(options.find("dropout: 0"), 10, "dropout: 0.4");
  auto network = make(GetParam(), options);
  network->eval();
  for (const auto& module : network->modules())
    if (dynamic_cast<DropoutImpl*>(module.get())) module->train();
  const auto x = images(4, 32, 5);
  const auto run = [&](const Tensor& rows, int64_t step) {
    const StepScope scope({.seed = 3, .step = step, .positions = rows + 100});
    return network->forward(x.index_select(0, rows)).embedding;
  };
  const auto all = torch::arange(4), order = torch::tensor({2, 0});
  const auto y = run(all, 0);
  const double scale = y.abs().max().item<double>();
  EXPECT_LE((run(order, 5) - y.index_select(0, order)).abs().max().item<double>(), 1e-5 * scale);
  EXPECT_THROW(network->forward(x), Error);  // training without a step
  network->eval();
  EXPECT_GT((network->forward(x).embedding - y).abs().max().item<double>(), 1e-3 * scale);
}

TEST_P(EveryBackbone, RefusesWhatDoesNotFit) {
  EXPECT_THROW(make(GetParam(), kTiny, 15), Error);
  EXPECT_THROW(make(GetParam(), "width: 0.31\n"), Error);
  EXPECT_THROW(make(GetParam(), "widht: 0.5\n"), Error);
  EXPECT_THROW(make(GetParam(), "batch_norm: global\n"), Error);
  auto network = make(GetParam(), kTiny);
  EXPECT_THROW(network->forward(images(2, 48, 6)), Error);
  auto options = kTiny;  // but the patch of its name, which fits the size of its name
  if (const auto at = options.find("patch: "); at != options.npos) options.erase(at);
  const int64_t own = make(GetParam(), options, 0)->image_size();
  EXPECT_TRUE(own == 112 || own == 224 || own == 518) << own;  // faces, or timm's
}

INSTANTIATE_TEST_SUITE_P(All, EveryBackbone, testing::ValuesIn(Backbones::get().names()),
                         [](const auto& info) { return info.param; });

TEST(Backbones, AutocastComputesAsThePublicImplementation) {
  auto network = make("iresnet18", "width: 0.25\n");
  const auto x = images(4, 32, 7);
  const auto exact = network->forward(x).embedding;
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const auto half = network->forward(x).embedding;
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(half.scalar_type(), torch::kFloat);  // fc and features run in fp32
  const double cosine = at::cosine_similarity(half, exact).min().item<double>();
  EXPECT_GT(cosine, 0.98);
  EXPECT_LT(cosine, 1 - 1e-7);  // it did run in bf16
  half.square().mean().backward();
  for (const auto& parameter : network->parameters())
    if (parameter.requires_grad()) {
      EXPECT_EQ(parameter.grad().scalar_type(), torch::kFloat);
    }
}

TEST(LoadWeights, ReportsWhatDoesNotFit) {
  const auto file = std::filesystem::path(testing::TempDir()) / "partial.safetensors";
  const auto network = make("iresnet18", "width: 0.125\nembedding: 24\n");
  const auto before = copied(state(*network));
  save_safetensors(file, {{"conv1.weight", torch::ones({8, 3, 3, 3})},
                          {"fc.bias", torch::ones({25})},
                          {"fc.wieght", torch::ones({2})}});
  try {
    load_weights(*network, file, /*strict=*/true);
    FAIL();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_NE(text.find("partial.safetensors"), text.npos);
    EXPECT_NE(text.find("1 unexpected: fc.wieght"), text.npos);
    EXPECT_NE(text.find("fc.bias: network [24], file [25]"), text.npos);
    EXPECT_NE(text.find("missing: bn1.bias"), text.npos);
  }
  for (const auto& [name, tensor] : state(*network)) EXPECT_TRUE(tensor.equal(before.at(name)));
  const auto report = load_weights(*network, file, /*strict=*/false);
  EXPECT_EQ(report.loaded, 1);
  EXPECT_EQ(report.unexpected, std::vector<std::string>{"fc.wieght"});
  EXPECT_EQ(report.mismatched.size(), 1u);
  EXPECT_EQ(state(*network)["conv1.weight"].sum().item<float>(), 8 * 27);
  EXPECT_TRUE(state(*network)["fc.bias"].equal(before.at("fc.bias")));
  save_safetensors(file, {{"other", torch::ones({1})}});
  EXPECT_THROW(load_weights(*network, file, /*strict=*/false), Error);
  EXPECT_THROW(load_weights(*network, "/nonexistent.safetensors", false), Error);
}

// Counted by tests/unit/models/count_parameters.py from the layers' arithmetic alone (112 px,
// 512-d, width 1). They agree with the published 24.03, 34.14, 43.59, 65.16, 118.83, 2.06 and 6.31
// M (reference/recognition.md 3).
TEST(Backbones, ParameterCountsAreThePublishedOnes) {
  const std::map<std::string, int64_t> expected{
      {"iresnet18", 24025600},          {"iresnet34", 34139328},   {"iresnet50", 43590848},
      {"iresnet100", 65156160},         {"iresnet200", 118833920}, {"mobilefacenet", 2059520},
      {"mobilefacenet_large", 6314880},
  };
  for (const auto& [name, count] : expected) {
    int64_t found = 0;
    for (const auto& parameter : make(name, "", 112)->parameters()) found += parameter.numel();
    EXPECT_EQ(found, count) << name;
  }
}

std::set<std::string> names_of(torch::nn::Module& network) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : state(network)) names.insert(name);
  return names;
}
void add_norm(std::set<std::string>& names, const std::string& prefix) {
  for (const char* part : {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"})
    names.insert(prefix + "." + part);
}

// The keys of arcface_torch's files (reference/recognition.md 3.1).
TEST(Backbones, IResNetHasThePublicNames) {
  const std::map<std::string, std::vector<int>> networks{{"iresnet18", {2, 2, 2, 2}},
                                                         {"iresnet34", {3, 4, 6, 3}},
                                                         {"iresnet50", {3, 4, 14, 3}},
                                                         {"iresnet100", {3, 13, 30, 3}},
                                                         {"iresnet200", {6, 26, 60, 6}}};
  for (const auto& [network, blocks] : networks) {
    std::set<std::string> names{"conv1.weight", "prelu.weight", "fc.weight", "fc.bias"};
    for (const char* norm : {"bn1", "bn2", "features"}) add_norm(names, norm);
    for (int stage = 0; stage < 4; ++stage)
      for (int k = 0; k < blocks[stage]; ++k) {
        const auto block = fmt::format("layer{}.{}.", stage + 1, k);
        for (const char* norm : {"bn1", "bn2", "bn3"}) add_norm(names, block + norm);
        for (const char* rest : {"conv1", "conv2", "prelu"}) names.insert(block + rest + ".weight");
        if (k > 0) continue;
        names.insert(block + "downsample.0.weight");
        add_norm(names, block + "downsample.1");
      }
    const auto made = make(network, "width: 0.03125\nembedding: 4\n");
    EXPECT_EQ(names_of(*made), names) << network;
    EXPECT_FALSE(made->named_parameters()["features.weight"].requires_grad());
  }
}

void add_conv(std::set<std::string>& names, const std::string& prefix, bool slope) {
  names.insert(prefix + ".layers.0.weight");
  add_norm(names, prefix + ".layers.1");
  if (slope) names.insert(prefix + ".layers.2.weight");
}
void add_depthwise(std::set<std::string>& names, const std::string& prefix) {
  for (int k = 0; k < 3; ++k) add_conv(names, fmt::format("{}.layers.{}", prefix, k), k < 2);
}

// The keys of arcface_torch's files (reference/recognition.md 3.3).
TEST(Backbones, MobileFaceNetHasThePublicNames) {
  const std::map<std::string, std::vector<int>> networks{{"mobilefacenet", {1, 4, 6, 2}},
                                                         {"mobilefacenet_large", {2, 8, 12, 4}}};
  for (const auto& [network, blocks] : networks) {
    std::set<std::string> names{"features.layers.2.weight"};
    add_conv(names, "layers.0", true);
    if (blocks[0] == 1) add_conv(names, "layers.1", true);
    for (int stage = 0; stage < 4; ++stage) {
      if (stage > 0) add_depthwise(names, fmt::format("layers.{}", 2 * stage));
      for (int k = 0; k < blocks[stage] && blocks[stage] > 1; ++k)
        add_depthwise(names, fmt::format("layers.{}.layers.{}", 2 * stage + 1, k));
    }
    add_conv(names, "conv_sep", true);
    add_conv(names, "features.layers.0", false);
    add_norm(names, "features.layers.3");
    EXPECT_EQ(names_of(*make(network, "width: 0.03125\nembedding: 4\n")), names) << network;
  }
}

// Weights after some training-mode batches, an input and its embedding, for
// tests/e2e/iresnet_witness.py.
TEST(Backbones, DumpForTheWitness) {
  const char* folder = std::getenv("FACETRAIN_DUMP");
  if (!folder) GTEST_SKIP() << "set FACETRAIN_DUMP to a folder to write it";
  for (const std::string name : {"iresnet18", "iresnet50", "mobilefacenet", "mobilefacenet_large",
                                 "ir_18", "ir_50", "ir_152", "ir_se_50", "ir_se_152"}) {
    auto network = make(name, "width: 0.25\nembedding: 64\ndropout: 0\n", 48);
    network->to(torch::kDouble);
    for (int i = 0; i < 4; ++i) {
      network->forward(images(8, 48, 20 + i).to(torch::kDouble));
      for (auto* part : deferred(*network)) part->commit();
    }
    const auto x = images(4, 48, 30).to(torch::kDouble);
    const auto trained = network->forward(x).embedding;
    trained.pow(3).sum().backward();  // the squares of normalised outputs would have no gradient
    NamedTensors tensors;
    for (const auto& [key, value] : state(*network)) tensors.emplace_back(key, value);
    save_safetensors(std::filesystem::path(folder) / (name + ".safetensors"), tensors);
    network->eval();
    NamedTensors probes{{"input", x},
                        {"training_output", trained.detach()},
                        {"eval_output", network->forward(x).embedding.detach()}};
    for (const auto& item : network->named_parameters())
      if (item.value().requires_grad())
        probes.emplace_back("gradient." + item.key(), item.value().grad());
    save_safetensors(std::filesystem::path(folder) / (name + ".probe.safetensors"), probes);
  }
}

}  // namespace
}  // namespace facetrain
