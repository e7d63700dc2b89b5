// Whole runs of every recipe that compares views, on thread ranks: the same at any world size and
// micro-batching, bit for bit after a resume, teachers that follow; and clear errors.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "comm/thread_comm.h"
#include "core/safetensors.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_faces.h"
#include "trainer/run.h"
#include "trainer/teacher.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

struct RecipeCase {
  std::string name, options;
};
void PrintTo(const RecipeCase& c, std::ostream* out) { *out << c.name; }

const std::vector<RecipeCase> kRecipes{
    {"simclr", "{name: simclr, hidden: 24, out: 12}"},
    {"moco_v3", "{name: moco_v3, hidden: 24, out: 12, momentum: 0.9}"},
    {"byol", "{name: byol, hidden: 24, out: 12, momentum: 0.9}"},
    {"simsiam", "{name: simsiam, hidden: 24, out: 16, bottleneck: 8}"},
    {"dino", "{name: dino, hidden: 24, bottleneck: 12, prototypes: 20, momentum: 0.9}"},
    {"dino_sinkhorn",
     "{name: dino, hidden: 24, bottleneck: 12, prototypes: 20, momentum: 0.9, assignment: "
     "sinkhorn, koleo: 0.1}"},
    {"swav", "{name: swav, hidden: 24, out: 12, prototypes: 20}"},
    {"swav_queue", "{name: swav, hidden: 24, out: 12, prototypes: 20, queue: 18, queue_from: 1}"}};

class ViewRecipes : public ::testing::TestWithParam<RecipeCase> {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    write_tiny_faces(path("faces"), 8, 4, 32);
  }
  static void TearDownTestSuite() { delete folder_; }
  static fs::path path(const std::string& name) { return folder_->path() / name; }

  static Config config(const std::string& run, const std::string& recipe,
                       const std::vector<std::string>& overrides = {}) {
    Config result = Config::parse(fmt::format(R"(
run: {}
recipe: {}
data:
  train: 'folder:{}'
  size: 32
  batch_size: 12
  workers: 2
  flip: false
  transforms:
    - name: views
      views: [{{field: global, count: 2, transforms: [{{name: resized_crop, smallest: 0.3}}, {{name: flip}}, {{name: color_jitter}}]}}]
model: {{name: iresnet18, width: 0.0625, embedding: 16, batch_norm: sync}}
optimizer: {{name: sgd, lr: 0.05}}
schedule: {{name: constant}}
trainer: {{steps: 4, precision: fp64, threads: 1}}
checkpoint: {{every: 0}}
log: {{every: 1}}
)",
                                              path(run).string(), recipe, path("faces").string()),
                                  "test.yaml");
    result.override_with(overrides);
    resolve_config(result);
    return result;
  }
  static void train(const Config& config, int ranks, bool resume = false) {
    run_thread_ranks(ranks, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), ranks);
      EXPECT_EQ(run_training({config, resume, false}, {comm, c10::kCPU, "thread ranks"}),
                RunEnd::kDone);
    });
  }
  static std::vector<double> losses(const std::string& run) {
    std::vector<double> values;
    std::ifstream in(path(run) / "metrics.jsonl");
    for (std::string line; std::getline(in, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json.contains("loss")) values.push_back(json.at("loss").get<double>());
    }
    return values;
  }
  static SafetensorsFile weights(const std::string& run) {
    return SafetensorsFile(*newest_checkpoint(path(run)) / "model.safetensors");
  }
  static void expect_same_run(const std::string& a, const std::string& b, double loss_tolerance,
                              double tolerance) {
    SCOPED_TRACE(a + " against " + b);
    const auto one = losses(a), other = losses(b);
    ASSERT_EQ(one.size(), 4u);
    ASSERT_EQ(other.size(), 4u);
    for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(one[i], other[i], loss_tolerance) << i + 1;
    const SafetensorsFile x = weights(a), y = weights(b);
    ASSERT_GT(x.tensors().size(), 100u);
    for (const auto& [name, info] : x.tensors()) {
      const auto u = x.read(name).to(torch::kDouble), v = y.read(name).to(torch::kDouble);
      EXPECT_LE(((u - v).abs() / u.abs().clamp_min(1)).max().item<double>(), tolerance) << name;
    }
  }
  static inline TemporaryFolder* folder_ = nullptr;
};

TEST_P(ViewRecipes, AreTheSameAtAnyWorldSize) {
  const auto& [name, options] = GetParam();
  for (const int ranks : {1, 2, 3, 4})
    train(config(fmt::format("{}{}", name, ranks), options), ranks);
  for (const int ranks : {2, 3, 4})
    expect_same_run(name + "1", fmt::format("{}{}", name, ranks), 1e-8, 1e-6);
  const auto curve = losses(name + "1");
  for (size_t i = 1; i < curve.size(); ++i) EXPECT_NE(curve[i], curve[i - 1]) << "it is moving";
}

TEST_P(ViewRecipes, MicroBatchesAreTheSameAtAnyWorldSize) {
  const auto& [name, options] = GetParam();
  for (const int ranks : {1, 3})
    train(config(fmt::format("{}_cut{}", name, ranks), options, {"trainer.accumulate=2"}), ranks);
  expect_same_run(name + "_cut1", name + "_cut3", 1e-8, 1e-6);
}

TEST_P(ViewRecipes, ResumeBitForBit) {
  const auto& [name, options] = GetParam();
  const std::vector<std::string> halfway{"checkpoint.every=2"};
  train(config(name + "_whole", options), 2);
  train(config(name + "_parts", options, halfway), 2);
  fs::remove_all(path(name + "_parts") / "step_000000004");
  train(config(name + "_parts", options, halfway), 2, /*resume=*/true);
  expect_same_run(name + "_whole", name + "_parts", 0, 0);
}

TEST_P(ViewRecipes, ResumeAtAnotherWorldSize) {
  const auto& [name, options] = GetParam();
  const std::vector<std::string> halfway{"checkpoint.every=2"};
  train(config(name + "_two", options), 2);
  train(config(name + "_moved", options, halfway), 2);
  fs::remove_all(path(name + "_moved") / "step_000000004");
  train(config(name + "_moved", options, halfway), 3, /*resume=*/true);
  expect_same_run(name + "_two", name + "_moved", 1e-8, 1e-6);
}

TEST_P(ViewRecipes, TheTeacherFollows) {
  const auto& [name, options] = GetParam();
  train(config(name + "_start", options, {"trainer.steps=0"}), 1);
  const SafetensorsFile start = weights(name + "_start");
  int64_t followed = 0;
  for (const auto& [tensor, info] : start.tensors()) {
    if (!tensor.starts_with("teacher.")) continue;
    ++followed;
    EXPECT_TRUE(torch::equal(start.read(tensor), start.read(tensor.substr(8)))) << tensor;
  }
  const bool has_teacher = !name.starts_with("sim") && !name.starts_with("swav");
  EXPECT_EQ(followed > 50, has_teacher);
  if (!has_teacher) return;
  train(config(name + "_one", options, {"trainer.steps=1"}), 1);
  const SafetensorsFile one = weights(name + "_one");
  Progress at{name.starts_with("moco") ? 1 : 0, 1, 1};
  const double m = teacher_momentum(0.9, at);
  const std::string weight = "backbone.conv1.weight";
  const auto wanted = m * start.read(weight) + (1 - m) * one.read(weight);
  EXPECT_LE((one.read("teacher." + weight) - wanted).abs().max().item<double>(), 1e-12);
}

INSTANTIATE_TEST_SUITE_P(Every, ViewRecipes, ::testing::ValuesIn(kRecipes),
                         [](const auto& info) { return info.param.name; });

using ViewErrors = ViewRecipes;

TEST_F(ViewErrors, AreClear) {
  expect_error(
      [] { train(config("bad", "{name: simclr, hidden: 8, out: 4}", {"data.transforms=[]"}), 2); },
      {"wants 2 fields global.0", "found no global.0", "{name: views, views: [{field: global"});
  expect_error([] { config("bad", "{name: swav, prototypes: 1}"); }, {"recipe.prototypes"});
  expect_error([] { config("bad", "{name: dino, assignment: none}"); },
               {"recipe.assignment", "sinkhorn"});
}

// The recipe that judges what the others learned.
TEST_F(ViewErrors, ClassificationIsTheSameAtAnyWorldSize) {
  const std::string options =
      "{name: classification, column: identity, head: batch_norm, label_smoothing: 0.1}";
  for (const int ranks : {1, 2, 3})
    train(config(fmt::format("classes{}", ranks), options, {"data.transforms=[]"}), ranks);
  expect_same_run("classes1", "classes2", 1e-8, 1e-6);
  expect_same_run("classes1", "classes3", 1e-8, 1e-6);
  // A frozen trunk stays as it is, its statistics too; the head learns.
  train(config("probe", options, {"data.transforms=[]", "trainer.freeze=['backbone.*']"}), 2);
  train(config("probe_start", options,
               {"data.transforms=[]", "trainer.freeze=['backbone.*']", "trainer.steps=0"}),
        2);
  const SafetensorsFile start = weights("probe_start"), end = weights("probe");
  for (const auto& [name, info] : start.tensors())
    EXPECT_EQ(torch::equal(start.read(name), end.read(name)), name.starts_with("backbone."))
        << name;
  expect_error([] { train(config("bad", "{name: classification}", {"data.transforms=[]"}), 1); },
               {"recipe.classes", "expression"});
}

TEST(TeacherMomentum, GoldenVectors) {
  const std::vector<double> wanted{.996, .99658579, .998, .99941421, 1};
  for (int64_t k = 0; k <= 4; ++k)
    EXPECT_NEAR(teacher_momentum(0.996, {k, 4, 1}), wanted[static_cast<size_t>(k)], 1e-8);
}

}  // namespace
}  // namespace facetrain
