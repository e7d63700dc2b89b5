// Whole runs with margins that keep statistics or draw at random: the same at any world size, in
// the checkpoint, and bit for bit over a resume.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "comm/thread_comm.h"
#include "core/safetensors.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_faces.h"
#include "trainer/run.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

class MarginRun : public ::testing::TestWithParam<const char*> {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    write_tiny_faces(path("faces"), 7, 6, 32);
  }
  static void TearDownTestSuite() { delete folder_; }
  static fs::path path(const std::string& name) { return folder_->path() / name; }

  static Config config(const std::string& run, const std::string& loss,
                       const std::vector<std::string>& overrides = {}) {
    Config result = Config::parse(fmt::format(R"(
run: {}
data: {{train: 'folder:{}', size: 32, batch_size: 12, workers: 2}}
model: {{name: iresnet18, width: 0.0625, embedding: 16, batch_norm: sync}}
loss: {}
optimizer: {{name: sgd, lr: 0.05}}
schedule: {{name: constant}}
trainer: {{steps: 4, accumulate: 2, precision: fp64, threads: 1}}
checkpoint: {{every: 0}}
log: {{every: 1}}
)",
                                              path(run).string(), path("faces").string(), loss),
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
    std::ifstream in(path(run) / "metrics.jsonl");
    std::vector<double> values;
    for (std::string line; std::getline(in, line);)
      values.push_back(nlohmann::json::parse(line).at("loss").get<double>());
    return values;
  }
  // Parameters and buffers that are not sharded.
  static std::map<std::string, torch::Tensor> tensors(const std::string& run) {
    return tensors_of(*newest_checkpoint(path(run)));
  }
  static std::map<std::string, torch::Tensor> tensors_of(const fs::path& checkpoint) {
    const SafetensorsFile file(checkpoint / "model.safetensors");
    std::map<std::string, torch::Tensor> all;
    for (const auto& [name, info] : file.tensors())
      all[name] = file.read(name).to(torch::kDouble).clone();
    return all;
  }
  static double difference(const std::string& a, const std::string& b) {
    const auto one = tensors(a), other = tensors(b);
    EXPECT_EQ(one.size(), other.size());
    double worst = 0;
    for (const auto& [name, x] : one)
      worst =
          std::max(worst, ((x - other.at(name)).abs() / x.abs().clamp_min(1)).max().item<double>());
    return worst;
  }

  static inline TemporaryFolder* folder_ = nullptr;
};

TEST_P(MarginRun, IsTheSameAtAnyWorldSizeAndOverAResume) {
  const std::string loss = GetParam();
  std::string name = loss.substr(7, loss.find_first_of(",}") - 7);  // behind "{name: "
  train(config(name + "1", loss), 1);
  const auto one = losses(name + "1");
  ASSERT_EQ(one.size(), 4u);
  for (const int ranks : {2, 3}) {
    const std::string run = name + std::to_string(ranks);
    train(config(run, loss), ranks);
    const auto other = losses(run);
    ASSERT_EQ(other.size(), 4u);
    for (size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(one[i], other[i], 1e-8) << run;
    EXPECT_LT(difference(name + "1", run), 1e-6) << run;
  }

  train(config(name + "_cut", loss, {"checkpoint.every=2"}), 2);
  fs::remove_all(path(name + "_cut") / "step_000000004");
  ASSERT_EQ(newest_checkpoint(path(name + "_cut"))->filename(), "step_000000002");
  train(config(name + "_cut", loss, {"checkpoint.every=2"}), 2, /*resume=*/true);
  EXPECT_EQ(losses(name + "2"), losses(name + "_cut"));
  EXPECT_EQ(difference(name + "2", name + "_cut"), 0);
}

INSTANTIATE_TEST_SUITE_P(Margins, MarginRun,
                         ::testing::Values("{name: adaface, scale: 16}",
                                           "{name: curricularface, margin: 0.2, scale: 16}",
                                           "{name: adacos}",
                                           "{name: elasticface, plus: true, scale: 16}"),
                         [](const auto& info) {
                           const std::string loss = info.param;
                           return loss.substr(7, loss.find_first_of(",}") - 7);
                         });

// A learning rate that explodes ruins the weights at the first step; the later ones are skipped.
TEST_F(MarginRun, StatisticsAreInTheCheckpointAndASkippedStepLeavesThem) {
  const std::map<std::string, std::map<std::string, double>> starts{
      {"adaface", {{"batch_mean", 20}, {"batch_std", 100}}},
      {"curricularface", {{"t", 0}}},
      {"adacos", {{"scale", 0}}}};
  for (const auto& [name, buffers] : starts) {
    SCOPED_TRACE(name);
    const auto wild = config(
        name + "_wild", "{name: " + name + "}",
        {"optimizer.lr=1e30", "optimizer.momentum=0", "trainer.steps=60", "trainer.max_skipped=3",
         "checkpoint.every=1", "checkpoint.keep=0", "trainer.precision=fp32"});
    expect_error([&] { train(wild, 2); }, {"3 steps in a row"});
    const auto checkpoint = [&](int64_t step) {
      return path(name + "_wild") / checkpoint_name(step);
    };
    int skipped = 0;
    for (int64_t step = 1; is_checkpoint(checkpoint(step + 1)); ++step) {
      const auto before = tensors_of(checkpoint(step)), after = tensors_of(checkpoint(step + 1));
      for (const auto& [buffer, start] : buffers) {
        const std::string key = "classifier.margin." + buffer;
        EXPECT_NE(before.at(key).item<double>(), start) << buffer;
        const bool same = after.at(key).item<double>() == before.at(key).item<double>();
        EXPECT_EQ(same, read_meta(checkpoint(step + 1)).state.skipped >
                            read_meta(checkpoint(step)).state.skipped)
            << buffer << " at step " << step + 1;
        skipped += same;
      }
    }
    EXPECT_GE(skipped, 1);
  }
}

}  // namespace
}  // namespace facetrain
