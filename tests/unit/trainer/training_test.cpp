// Whole runs on thread ranks: the same answer at any world size, micro-batching and interruption;
// skipped steps; errors.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "comm/thread_comm.h"
#include "core/log.h"
#include "tests/support/tiny_faces.h"
#include "trainer/run.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

class Training : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = new TemporaryFolder;
    write_tiny_faces(faces(), 7, 6, 32);
  }
  static void TearDownTestSuite() { delete folder_; }
  static fs::path faces() { return folder_->path() / "faces"; }

  static Config config(const std::string& run, std::vector<std::string> overrides) {
    const std::string yaml = fmt::format(R"(
run: {}
data: {{train: 'folder:{}', size: 32, batch_size: 12, workers: 2}}
model: {{name: iresnet18, width: 0.0625, embedding: 16, batch_norm: sync}}
loss: {{name: arcface, margin: 0.2, scale: 16}}
optimizer: {{name: sgd, lr: 0.05}}
schedule: {{name: cosine, warmup: 2}}
trainer: {{steps: 6, precision: fp64, threads: 1}}
checkpoint: {{every: 0}}
log: {{every: 1}}
)",
                                         (folder_->path() / run).string(), faces().string());
    Config result = Config::parse(yaml, "test.yaml");
    result.override_with(overrides);
    resolve_config(result);
    return result;
  }

  static void train(const Config& config, int ranks, bool resume = false) {
    run_thread_ranks(ranks, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), ranks);
      const RunEnd end = run_training({config, resume, false}, {comm, c10::kCPU, "thread ranks"});
      EXPECT_EQ(end, RunEnd::kDone);
    });
  }

  static std::vector<double> losses(const std::string& run) {
    std::ifstream in(folder_->path() / run / "metrics.jsonl");
    std::vector<double> result;
    for (std::string line; std::getline(in, line);) {
      const auto json = nlohmann::json::parse(line);
      EXPECT_EQ(json.at("step").get<size_t>(), result.size() + 1) << run;
      result.push_back(json.at("loss").is_null() ? NAN : json.at("loss").get<double>());
    }
    return result;
  }

  // All tensors of a run's newest checkpoint, sharded ones joined.
  static std::map<std::string, torch::Tensor> tensors(const std::string& run) {
    const auto checkpoint = newest_checkpoint(folder_->path() / run);
    if (!checkpoint) throw std::runtime_error("no checkpoint in " + run);
    std::map<std::string, torch::Tensor> all;
    for (const auto& item : fs::directory_iterator(*checkpoint)) {
      if (item.path().extension() != ".safetensors") continue;
      const SafetensorsFile file(item.path());
      for (const auto& [name, info] : file.tensors()) {
        const auto range = file.metadata().find(name);
        if (range == file.metadata().end()) {
          all[name] = file.read(name);
          continue;
        }
        int64_t begin = 0, end = 0, total = 0;
        std::sscanf(range->second.c_str(), "%ld,%ld,%ld", &begin, &end, &total);
        auto part = file.read(name);
        if (!all.contains(name)) {
          auto shape = part.sizes().vec();
          shape[0] = total;
          all[name] = torch::full(shape, NAN, part.options());
        }
        all[name].narrow(0, begin, end - begin).copy_(part);
      }
    }
    return all;
  }

  // Largest difference relative to max(1, |value|); names must be the same.
  static double difference(const std::map<std::string, torch::Tensor>& a,
                           const std::map<std::string, torch::Tensor>& b) {
    EXPECT_EQ(a.size(), b.size());
    double worst = 0;
    for (const auto& [name, tensor] : a) {
      const auto other = b.at(name).to(torch::kDouble), mine = tensor.to(torch::kDouble);
      EXPECT_FALSE(mine.isnan().any().item<bool>()) << name;
      worst =
          std::max(worst, ((mine - other).abs() / mine.abs().clamp_min(1)).max().item<double>());
    }
    return worst;
  }

  static void expect_close(const std::string& a, const std::string& b) {
    const auto one = losses(a), other = losses(b);
    ASSERT_EQ(one.size(), other.size());
    for (size_t i = 0; i < one.size(); ++i)
      EXPECT_NEAR(one[i], other[i], 1e-8) << a << " against " << b << ", step " << i + 1;
    EXPECT_LT(difference(tensors(a), tensors(b)), 1e-6) << a << " against " << b;
  }

 private:
  static inline TemporaryFolder* folder_ = nullptr;

 protected:
  static fs::path run_folder(const std::string& run) { return folder_->path() / run; }
};

TEST_F(Training, GivesTheSameAtOneTwoThreeAndFourRanks) {
  for (const std::string variant : {"plain", "sampled", "adamw"}) {
    std::vector<std::string> overrides;
    if (variant == "sampled")
      overrides = {"classifier.sample_rate=0.4", "loss.name=cosface", "trainer.clip=1"};
    if (variant == "adamw")
      overrides = {"optimizer.name=adamw", "classifier.rows=dense", "classifier.sample_rate=0.5",
                   "trainer.ema=0.9"};
    for (int ranks = 1; ranks <= 4; ++ranks)
      train(config(variant + std::to_string(ranks), overrides), ranks);
    for (int ranks = 2; ranks <= 4; ++ranks)
      expect_close(variant + "1", variant + std::to_string(ranks));
    EXPECT_EQ(losses(variant + "1").size(), 6u);
  }
}

TEST_F(Training, MicroBatchesChangeNothingWithoutBatchStatistics) {
  // Batch norm in eval mode: frozen as a whole, by module.
  const std::vector<std::string> frozen{
      "trainer.freeze=['*bn*.*', '*downsample.1.*', '*features.*']"};
  train(config("one", frozen), 2);
  auto cut = frozen;
  cut.push_back("trainer.accumulate=3");
  train(config("three", cut), 2);
  expect_close("one", "three");
}

TEST_F(Training, ResumeIsTheUninterruptedRunBitForBit) {
  const std::vector<std::string> overrides{"trainer.precision=fp32", "trainer.ema=0.9",
                                           "trainer.accumulate=2",   "classifier.sample_rate=0.5",
                                           "optimizer.name=adamw",   "trainer.epochs=2",
                                           "trainer.steps=7"};
  train(config("whole", overrides), 2);
  // The same run, interrupted after step 4 (the schedule still knows of 7): the files of step 5 and
  // later are removed.
  auto with_checkpoints = overrides;
  with_checkpoints.push_back("checkpoint.every=4");
  train(config("cut", with_checkpoints), 2);
  fs::remove_all(run_folder("cut") / "step_000000007");
  ASSERT_EQ(newest_checkpoint(run_folder("cut"))->filename(), "step_000000004");
  train(config("cut", with_checkpoints), 2, /*resume=*/true);
  EXPECT_EQ(losses("whole"), losses("cut"));
  EXPECT_EQ(difference(tensors("whole"), tensors("cut")), 0);
}

TEST_F(Training, ResumesAtAnyWorldSize) {
  train(config("two", {}), 2);
  for (const int ranks : {1, 3, 4}) {
    const std::string run = "moved" + std::to_string(ranks);
    train(config(run, {"checkpoint.every=3"}), 2);
    fs::remove_all(run_folder(run) / "step_000000006");
    train(config(run, {"checkpoint.every=3"}), ranks, /*resume=*/true);
    expect_close("two", run);
  }
}

TEST_F(Training, OverlapAndDeterministicGiveTheSameBits) {
  train(config("overlap", {"trainer.bucket_mb=0.01"}), 3);
  train(config("no_overlap", {"trainer.bucket_mb=0.01", "trainer.overlap=false", "data.workers=1"}),
        3);
  EXPECT_EQ(losses("overlap"), losses("no_overlap"));
  EXPECT_EQ(difference(tensors("overlap"), tensors("no_overlap")), 0);
}

TEST_F(Training, ASkippedStepLeavesEverythingAndTenEndTheRun) {
  // A learning rate that explodes: the loss becomes non-finite, and the run ends by max_skipped
  // with its message.
  const auto wild =
      config("wild", {"optimizer.lr=1e30", "optimizer.momentum=0", "schedule.name=constant",
                      "trainer.steps=60", "trainer.max_skipped=3", "checkpoint.every=1",
                      "checkpoint.keep=0", "trainer.precision=fp32"});
  try {
    train(wild, 2);
    FAIL() << "wanted an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("3 steps in a row"), std::string::npos)
        << error.what();
  }
  // Step 1's update already ruined the weights; the skipped steps after it changed nothing at all.
  const auto curve = losses("wild");
  ASSERT_GE(curve.size(), 2u);
  EXPECT_TRUE(std::isnan(curve.back()));
  std::map<std::string, torch::Tensor> before, after;
  const auto checkpoint = newest_checkpoint(run_folder("wild"));
  ASSERT_TRUE(checkpoint.has_value());
  EXPECT_GE(read_meta(*checkpoint).state.skipped, 1);
}

TEST_F(Training, ZeroStepsWriteTheInitialCheckpoint) {
  train(config("initial", {"trainer.steps=0"}), 2);
  EXPECT_TRUE(is_checkpoint(run_folder("initial") / "step_000000000"));
  EXPECT_TRUE(losses("initial").empty());
}

TEST_F(Training, ExtremeSampleRateIsLegal) {
  train(config("positives", {"classifier.sample_rate=0"}), 3);
  for (const double loss : losses("positives")) EXPECT_TRUE(std::isfinite(loss));
}

TEST_F(Training, LossFalls) {
  train(config("learns", {"trainer.steps=60", "data.batch_size=21", "trainer.precision=fp32",
                          "model.batch_norm=local", "loss.margin=0"}),
        2);
  const auto curve = losses("learns");
  EXPECT_LT(curve.back(), 0.5 * curve.front());
}

struct BadInput {
  const char* name;
  std::vector<std::string> overrides;
  const char* message;
};
class BadRun : public Training, public ::testing::WithParamInterface<BadInput> {};
TEST_P(BadRun, IsOneClearError) {
  try {
    train(config("bad", GetParam().overrides), 2);
    FAIL() << "wanted an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find(GetParam().message), std::string::npos)
        << error.what();
  }
  EXPECT_FALSE(fs::exists(run_folder("bad"))) << "nothing may be left behind";
}
INSTANTIATE_TEST_SUITE_P(
    Inputs, BadRun,
    ::testing::Values(
        BadInput{"key", {"trainer.stepz=3"}, "unknown key 'trainer.stepz' (did you mean 'steps'?)"},
        BadInput{"range", {"loss.margin=9"}, "loss.margin"},
        BadInput{"margin_name", {"loss.name=arcfaec"}, "did you mean 'arcface'"},
        BadInput{"classes", {"classifier.classes=3"}, "classifier.classes is 3"},
        BadInput{"batch", {"data.batch_size=1000"}, "the 42 samples"},
        BadInput{"ranks", {"data.batch_size=1"}, "every rank needs one"},
        BadInput{"micro", {"trainer.accumulate=8"}, "every rank needs one"},
        BadInput{"no_data", {"data.train=folder:/nowhere/at/all"}, "/nowhere/at/all"},
        BadInput{"fp16", {"trainer.precision=fp16"}, "fp16 runs on CUDA only"},
        BadInput{"size", {"data.size=48"}, "32"},
        BadInput{"freeze", {"trainer.freeze=[nothing.here]"}, "no parameter matches"},
        BadInput{"init", {"model.init=/nowhere.safetensors"}, "/nowhere.safetensors"}),
    [](const auto& info) { return info.param.name; });

TEST_F(Training, ARunFolderIsNeverOverwritten) {
  train(config("kept", {"trainer.steps=1"}), 2);
  try {
    train(config("kept", {"trainer.steps=1"}), 2);
    FAIL() << "wanted an error";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("already exists"), std::string::npos);
  }
}

}  // namespace
}  // namespace facetrain
