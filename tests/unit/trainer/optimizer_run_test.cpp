// Whole runs under every registered optimizer: the same at any world size, bit for bit over a
// resume; tensors that start late; clipping tensor by tensor; rates that fall from layer to layer.
#include <gtest/gtest.h>

#include "comm/thread_comm.h"
#include "core/safetensors.h"
#include "models/init_weights.h"
#include "models/layers.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_faces.h"
#include "trainer/run.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

using Tensors = std::map<std::string, torch::Tensor>;

// Mean colours of 4 x 4 fields through three layers.
struct Layered : Backbone {
  Layered(const CommonModelOptions& options, const BackboneContext&) : Backbone(options) {
    for (int64_t i = 0; i < 3; ++i) {
      const std::string name = fmt::format("layer{}", i);
      linear.push_back(register_module(name, Linear(i == 0 ? 48 : 24, i == 2 ? dim() : 24)));
      init_normal(linear.back()->weight, 5, name + ".weight", 0, 0.3);
      init_normal(linear.back()->bias, 5, name + ".bias", 0, 0.3);
    }
  }
  Features forward(const torch::Tensor& images) override {
    auto x = torch::avg_pool2d(images, 8).flatten(1);
    for (auto& layer : linear) x = torch::tanh(layer(x));
    return {x, {}, {}};
  }
  int64_t image_size() const override { return 32; }
  int64_t layers() const override { return 3; }
  int64_t layer_of(const std::string& parameter) const override { return parameter.at(5) - '0'; }
  std::vector<Linear> linear;
};
const bool registered =
    Backbones::get().add<Layered, CommonModelOptions>("layered_of_a_test", "three linear layers");

class OptimizerRun : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    write_tiny_faces(path("faces"), 7, 6, 32);
  }
  static void TearDownTestSuite() { delete folder_; }
  static fs::path path(const std::string& name) { return folder_->path() / name; }

  // Trains in run folder `run` and returns what its last checkpoint holds, optimizer state too.
  static Tensors train(const std::string& run, const std::string& optimizer, int ranks,
                       std::vector<std::string> overrides = {}, bool resume = false) {
    Config config =
        Config::parse(fmt::format(R"(
run: {}
data: {{train: 'folder:{}', size: 32, batch_size: 12}}
model: {{name: layered_of_a_test}}
loss: {{name: cosface, margin: 0.2, scale: 16}}
optimizer: {}
schedule: {{name: cosine, warmup: 2, warmup_from: 0.25}}
trainer: {{steps: 4, precision: fp64, threads: 1}}
checkpoint: {{every: 0}}
log: {{every: 1}}
)",
                                  path(run).string(), path("faces").string(), optimizer),
                      "test.yaml");
    config.override_with(overrides);
    resolve_config(config);
    run_thread_ranks(ranks, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), ranks);
      EXPECT_EQ(run_training({config, resume, false}, {comm, c10::kCPU, "thread ranks"}),
                RunEnd::kDone);
    });
    return read(*newest_checkpoint(path(run)));
  }

  // Sharded tensors are joined: rows_0, rows_1, ... hold them in order.
  static Tensors read(const fs::path& checkpoint) {
    std::vector<fs::path> files;
    for (const auto& item : fs::directory_iterator(checkpoint))
      if (item.path().extension() == ".safetensors") files.push_back(item.path());
    std::ranges::sort(files);
    Tensors all;
    for (const auto& file : files) {
      const SafetensorsFile opened(file);
      for (const auto& [name, info] : opened.tensors()) {
        const auto part = opened.read(name).clone();
        all[name] = all.contains(name) ? torch::cat({all.at(name), part}) : part;
      }
    }
    return all;
  }

  static double difference(const Tensors& a, const Tensors& b) {
    EXPECT_EQ(a.size(), b.size());
    double worst = 0;
    for (const auto& [name, x] : a) {
      const auto one = x.to(torch::kDouble), other = b.at(name).to(torch::kDouble);
      EXPECT_FALSE(one.isnan().any().item<bool>()) << name;
      worst = std::max(worst, ((one - other).abs() / one.abs().clamp_min(1)).max().item<double>());
    }
    return worst;
  }

 private:
  static inline TemporaryFolder* folder_ = nullptr;
};

// A late start, a decay that changes, factors by layer, and clipping by tensor, all at once.
std::string full(const std::string& name) {
  return fmt::format(
      "{{name: {}, lr: 0.05, layer_decay: 0.65, weight_decay: {{at: [0, 4], value: [0.01, 0.1], "
      "interpolate: cosine}}, rules: [{{match: 'classifier.*', from: 2}}]}}",
      name);
}
const std::vector<std::string> kByTensor{"trainer.clip=0.5", "trainer.clip_scope=tensor"};

TEST_F(OptimizerRun, EveryOptimizerGivesTheSameAtOneTwoAndFourRanks) {
  for (const auto& name : Optimizers::get().names()) {
    const auto expected = train(name + "1", full(name), 1, kByTensor);
    for (const int ranks : {2, 4})
      EXPECT_LT(difference(expected,
                           train(fmt::format("{}{}", name, ranks), full(name), ranks, kByTensor)),
                1e-6)
          << name << " at " << ranks;
  }
}

TEST_F(OptimizerRun, EveryOptimizerResumesBitForBit) {
  for (const auto& name : Optimizers::get().names()) {
    auto overrides = kByTensor;
    overrides.push_back("trainer.precision=fp32");
    const auto expected = train(name + "_whole", full(name), 2, overrides);
    for (const int cut : {1, 3}) {  // before and after the classifier's start
      const std::string run = fmt::format("{}_cut{}", name, cut);
      auto saved = overrides;
      saved.push_back(fmt::format("checkpoint.every={}", cut));
      saved.push_back("checkpoint.keep=0");
      train(run, full(name), 2, saved);
      for (int64_t step = cut + 1; step <= 4; ++step)
        fs::remove_all(path(run) / checkpoint_name(step));
      ASSERT_EQ(newest_checkpoint(path(run))->filename(), checkpoint_name(cut));
      EXPECT_EQ(difference(expected, train(run, full(name), 2, saved, /*resume=*/true)), 0)
          << name << ' ' << cut;
    }
  }
}

TEST_F(OptimizerRun, ATensorThatStartsLateIsLeftAloneUntilThen) {
  const std::string late =
      "{name: adamw, lr: 0.05, weight_decay: 0.1, rules: [{match: 'classifier.*', from: 3}]}";
  const auto initial = train("late0", late, 2, {"trainer.steps=0"});
  const auto before = train("late3", late, 2, {"trainer.steps=3"});
  const auto after = train("late4", late, 2, {"trainer.steps=4"});
  for (const std::string name : {"weight", "weight.exp_avg", "weight.exp_avg_sq"}) {
    const std::string full_name = "classifier." + name;
    EXPECT_TRUE(torch::equal(initial.at(full_name), before.at(full_name))) << name;
    EXPECT_FALSE(torch::equal(initial.at(full_name), after.at(full_name))) << name;
  }
  EXPECT_FALSE(
      torch::equal(initial.at("backbone.layer0.weight"), before.at("backbone.layer0.weight")));
}

// With plain SGD at rate 1 a step is the gradient: every tensor's, cut to the bound.
TEST_F(OptimizerRun, ClipsTensorByTensorAlsoThoseThatRanksShare) {
  const std::string plain = "{name: sgd, lr: 1, momentum: 0, weight_decay: 0}";
  const std::string model =
      "model={name: iresnet18, width: 0.0625, embedding: 16, batch_norm: sync}";
  const std::vector<std::string> one_step{"trainer.steps=1", "schedule.name=constant", model};
  const auto initial = train("clip0", plain, 1, {"trainer.steps=0", model});
  const auto unclipped = train("unclipped", plain, 1, one_step);
  const double bound = 0.05;
  for (const int ranks : {1, 2, 3}) {
    auto clipped_step = one_step;
    clipped_step.insert(clipped_step.end(),
                        {fmt::format("trainer.clip={}", bound), "trainer.clip_scope=tensor"});
    const auto clipped = train(fmt::format("clipped{}", ranks), plain, ranks, clipped_step);
    int cut = 0, whole = 0;
    for (const auto& [name, start] : initial) {
      if (name.find("running_") != std::string::npos || !start.is_floating_point()) continue;
      const auto gradient = start - unclipped.at(name);
      const double norm = gradient.norm().item<double>();
      ++(norm > bound ? cut : whole);
      const auto expected = start - gradient * std::min(1.0, bound / std::max(norm, 1e-300));
      EXPECT_LT((clipped.at(name) - expected).abs().max().item<double>(), 1e-10)
          << name << " at " << ranks;
    }
    EXPECT_GT(cut, 5);
    EXPECT_GT(whole, 5);
    const auto& rows = "classifier.weight";
    EXPECT_NEAR((initial.at(rows) - clipped.at(rows)).norm().item<double>(), bound, 1e-10);
  }
}

TEST_F(OptimizerRun, LayerDecayScalesTheNetworkAndNotTheHead) {
  const std::vector<std::string> one_step{"trainer.steps=1", "schedule.name=constant"};
  const auto step = [&](const std::string& run, double decay) {
    return train(
        run,
        fmt::format("{{name: sgd, lr: 1, momentum: 0, weight_decay: 0, layer_decay: {}}}", decay),
        2, one_step);
  };
  const auto initial = train("layers0", "{name: sgd}", 2, {"trainer.steps=0"});
  const auto even = step("layers_even", 1), falling = step("layers_falling", 0.25);
  const auto moved = [&](const Tensors& to, const std::string& name) {
    return (to.at(name) - initial.at(name)).norm().item<double>();
  };
  const std::vector<std::pair<std::string, double>> factors{{"backbone.layer0.weight", 1.0 / 16},
                                                            {"backbone.layer1.bias", 1.0 / 4},
                                                            {"backbone.layer2.weight", 1},
                                                            {"classifier.weight", 1}};
  for (const auto& [name, factor] : factors) {
    EXPECT_GT(moved(even, name), 1e-4) << name;
    EXPECT_NEAR(moved(falling, name), factor * moved(even, name), 1e-12) << name;
  }
}

TEST_F(OptimizerRun, SampledClassRowsAreRefusedByOptimizersOfWholeTensors) {
  for (const std::string name : {"lars", "larc"})
    expect_error(
        [&] {
          train(name + "_sampled", "{name: " + name + "}", 2, {"classifier.sample_rate=0.5"});
        },
        {"classifier.weight", "classifier.sample_rate=1"});
}

}  // namespace
}  // namespace facetrain
