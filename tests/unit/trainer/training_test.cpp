// Whole runs on thread ranks: the same answer at any world size, micro-batching and interruption;
// skipped steps; errors.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "comm/thread_comm.h"
#include "core/log.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_faces.h"
#include "trainer/run.h"
#include "trainer/streams.h"

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

  // All tensors of a run's newest checkpoint.
  static std::map<std::string, torch::Tensor> tensors(const std::string& run) {
    const auto checkpoint = newest_checkpoint(folder_->path() / run);
    if (!checkpoint) throw std::runtime_error("no checkpoint in " + run);
    return tensors_of(*checkpoint);
  }
  // Sharded ones joined.
  static std::map<std::string, torch::Tensor> tensors_of(const fs::path& checkpoint) {
    std::map<std::string, torch::Tensor> all;
    for (const auto& item : fs::directory_iterator(checkpoint)) {
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
  expect_error([&] { train(wild, 2); }, {"3 steps in a row"});
  // Step 1's update already ruined the weights; the skipped steps after it changed nothing at all:
  // parameters, averages, buffers, optimizer state, and the number of updates.
  const auto curve = losses("wild");
  ASSERT_GE(curve.size(), 2u);
  EXPECT_TRUE(std::isnan(curve.back()));
  int compared = 0;
  for (int64_t step = 1; is_checkpoint(run_folder("wild") / checkpoint_name(step + 1)); ++step) {
    const fs::path before = run_folder("wild") / checkpoint_name(step),
                   after = run_folder("wild") / checkpoint_name(step + 1);
    const TrainState one = read_meta(before).state, other = read_meta(after).state;
    if (other.skipped == one.skipped) continue;
    EXPECT_EQ(other.updates, one.updates);
    EXPECT_EQ(other.skipped_in_row, one.skipped_in_row + 1);
    const auto there = tensors_of(after);
    for (const auto& [name, tensor] : tensors_of(before))
      EXPECT_TRUE(torch::allclose(tensor, there.at(name), 0, 0, /*equal_nan=*/true)) << name;
    ++compared;
  }
  EXPECT_GE(compared, 1);
}

// Pairs of the 42 tiny faces, 6 a person: neighbours, and the same place of the next person.
fs::path write_pairs(const fs::path& file) {
  std::ofstream out(file);
  out << "fold,i,j,same\n";
  for (int i = 0; i + 6 < 42; i += 2)
    out << i % 4 / 2 << ',' << i << ',' << i + 1 << ",1\n"
        << i % 4 / 2 << ',' << i << ',' << i + 6 << ",0\n";
  return file;
}

TEST_F(Training, EvaluatesOnScheduleAndKeepsTheBest) {
  const fs::path pairs = write_pairs(faces().parent_path() / "pairs.csv");
  const std::vector<std::string> evaluated{
      fmt::format("eval.sets=[{{name: tiny, path: 'folder:{}', pairs: '{}'}}]", faces().string(),
                  pairs.string()),
      "eval.every=2",
      "checkpoint.keep_best=tiny.accuracy",
      "checkpoint.keep=1",
      "checkpoint.every=1",
      "trainer.steps=7"};
  std::vector<std::map<int64_t, double>> figures;
  for (const int ranks : {1, 3}) {
    const std::string run = fmt::format("evaluated{}", ranks);
    train(config(run, evaluated), ranks);
    std::ifstream in(run_folder(run) / "metrics.jsonl");
    std::map<int64_t, double> accuracy;
    for (std::string line; std::getline(in, line);) {
      const auto json = nlohmann::json::parse(line);
      if (json.contains("eval")) accuracy[json.at("step")] = json.at("eval").at("tiny.accuracy");
    }
    std::vector<int64_t> steps;
    for (const auto& [step, value] : accuracy) steps.push_back(step);
    EXPECT_EQ(steps, (std::vector<int64_t>{2, 4, 6, 7}));
    const auto best = std::ranges::max_element(
        accuracy, [](const auto& a, const auto& b) { return a.second < b.second; });
    std::string name;
    std::ifstream(run_folder(run) / "best") >> name;
    EXPECT_EQ(name, checkpoint_name(best->first));  // the first of equal ones
    EXPECT_TRUE(is_checkpoint(run_folder(run) / name));
    EXPECT_EQ(read_meta(run_folder(run) / checkpoint_name(7)).state.best, best->second);
    figures.push_back(accuracy);
  }
  EXPECT_EQ(figures[0], figures[1]);
}

TEST_F(Training, TheBestErrorRateIsTheLowestAndAMisspeltFigureIsAnError) {
  const fs::path pairs = write_pairs(faces().parent_path() / "pairs.csv");
  std::vector<std::string> words{
      fmt::format("eval.sets=[{{name: tiny, path: 'folder:{}', pairs: '{}'}}]", faces().string(),
                  pairs.string()),
      "eval.every=1", "checkpoint.keep_best=tiny.eer", "optimizer.lr=0.2"};
  train(config("lowest", words), 2);
  std::ifstream in(run_folder("lowest") / "metrics.jsonl");
  std::vector<double> rates;
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line);
    if (json.contains("eval")) rates.push_back(json.at("eval").at("tiny.eer"));
  }
  ASSERT_EQ(rates.size(), 6u);
  const auto lowest = std::ranges::min_element(rates);
  ASSERT_NE(*lowest, *std::ranges::max_element(rates));
  std::string name;
  std::ifstream(run_folder("lowest") / "best") >> name;
  EXPECT_EQ(name, checkpoint_name(lowest - rates.begin() + 1));

  words[2] = "checkpoint.keep_best=tiny.acuracy";
  expect_error([&] { train(config("misspelt", words), 2); },
               {"no figure is called 'tiny.acuracy'", "tiny.accuracy", "resume"});
  words[2] = "checkpoint.keep_best=tiny.accuracy";
  train(config("misspelt", words), 2, /*resume=*/true);
  EXPECT_TRUE(read_meta(run_folder("misspelt") / checkpoint_name(6)).state.has_best);
}

TEST_F(Training, SetsThatAreNotEvaluatedAreNotOpened) {
  train(config("not_evaluated", {"eval.sets=[{name: gone, path: /nowhere, pairs: /nowhere.csv}]",
                                 "eval.every=0", "trainer.steps=1"}),
        2);
  EXPECT_EQ(losses("not_evaluated").size(), 1u);
}

TEST_F(Training, AFrozenNetworkTrainsTheClassifierAlone) {
  train(config("frozen0", {"trainer.steps=0", "trainer.freeze=[backbone.*]", "trainer.ema=0.9"}),
        2);
  train(config("frozen", {"trainer.freeze=[backbone.*]", "trainer.ema=0.9"}), 2);
  const auto before = tensors("frozen0"), after = tensors("frozen");
  for (const auto& [name, tensor] : before)
    if (name.starts_with("backbone.")) {
      EXPECT_TRUE(torch::equal(tensor, after.at(name))) << name;
    }
  EXPECT_FALSE(torch::equal(before.at("classifier.weight"), after.at("classifier.weight")));
}

TEST_F(Training, AResumeInAnotherPrecisionStartsWithItsOwnLossScale) {
  train(config("scale", {"trainer.steps=2", "trainer.precision=fp32"}), 2);
  // As fp16 on a GPU would have left it.
  const fs::path meta = run_folder("scale") / checkpoint_name(2) / "meta.yaml";
  std::stringstream text;
  text << std::ifstream(meta).rdbuf();
  std::string yaml = text.str();
  const auto replace = [&](const std::string& from, const std::string& to) {
    ASSERT_NE(yaml.find(from), std::string::npos) << from;
    yaml.replace(yaml.find(from), from.size(), to);
  };
  replace("loss_scale: 1\n", "loss_scale: 65536\n");
  replace("precision: fp32", "precision: fp16");
  std::ofstream(meta) << yaml;
  train(config("scale", {"trainer.steps=3", "trainer.precision=fp32"}), 2, /*resume=*/true);
  EXPECT_EQ(read_meta(run_folder("scale") / checkpoint_name(3)).state.loss_scale, 1);
}

TEST_F(Training, AResumeAsksForMoreStepsNotFewer) {
  train(config("shorter", {"trainer.steps=4"}), 2);
  const auto before = run_config(run_folder("shorter")).dump();
  expect_error([&] { train(config("shorter", {"trainer.steps=3"}), 2, /*resume=*/true); },
               {"the run is at step 4; trainer.steps=3 asks for 3 in all: give a larger number; "
                "nothing was changed"});
  expect_error(
      [&] {
        train(config("shorter", {"trainer.steps=-1", "trainer.epochs=0.5"}), 2, /*resume=*/true);
      },
      {"the run is at step 4; trainer.epochs=0.5 asks for 2 in all"});
  EXPECT_EQ(run_config(run_folder("shorter")).dump(), before);
  ::testing::internal::CaptureStdout();
  train(config("shorter", {"trainer.steps=4"}), 2, /*resume=*/true);
  expect_parts(::testing::internal::GetCapturedStdout(), {"the run has its 4 steps already"});
  // Half a cosine after two steps of warm-up: the last of 4 steps had half of the rate 0.05, the
  // fifth of 10 has cos²(π/8) of it.
  ::testing::internal::CaptureStdout();
  train(config("shorter", {"trainer.steps=10"}), 2, /*resume=*/true);
  expect_parts(::testing::internal::GetCapturedStdout(),
               {"lr goes on at 0.0427 (with the old length: 0.025)"});
}

TEST_F(Training, AWarmupThatOutlastsTheRunIsToldOnce) {
  ::testing::internal::CaptureStderr();
  train(config("cold", {"trainer.steps=2", "schedule.warmup=5"}), 2);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(),
            "[rank 0] warning: schedule.warmup is 5 steps, the run has 2: the full rate is never "
            "reached\n");
  ::testing::internal::CaptureStderr();
  train(config("warm", {"trainer.steps=2", "schedule.warmup=2"}), 2);
  EXPECT_EQ(::testing::internal::GetCapturedStderr(), "");
}

TEST_F(Training, AResumeKeepsTheBatchSize) {
  train(config("batch", {"trainer.steps=2"}), 2);
  expect_error(
      [&] {
        train(config("batch", {"trainer.steps=4", "data.batch_size=24"}), 2, /*resume=*/true);
      },
      {"this run has 12, the resume asks for 24"});
  EXPECT_NE(run_config(run_folder("batch")).dump().find("batch_size: 12"), std::string::npos);
}

TEST_F(Training, RanksThatSeeOtherDataDoNotTrainTogether) {
  write_tiny_faces(faces().parent_path() / "others", 7, 6, 32);
  fs::copy_file(faces() / "id_003" / "000.ppm",
                faces().parent_path() / "others" / "id_000" / "000.ppm",
                fs::copy_options::overwrite_existing);
  expect_error(
      [&] {
        run_thread_ranks(2, [&](Communicator& comm) {
          const auto folder = comm.rank() == 0 ? faces() : faces().parent_path() / "others";
          const auto data = Config::parse(fmt::format("train: 'folder:{}'", folder.string()));
          count_identities(data, comm);
        });
      },
      {"the training data wants to be the same"});
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
  expect_error([&] { train(config("bad", GetParam().overrides), 2); }, {GetParam().message});
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
        BadInput{"no_data",
                 {"data.train=folder:/nowhere/at/all"},
                 "command line: data.train: there is no '/nowhere/at/all'"},
        BadInput{"no_set",
                 {"eval.sets=[{path: nowhere, pairs: p.csv}]"},
                 "command line: eval.sets[0]: there is no 'nowhere'"},
        BadInput{"set_left_out",
                 {"eval.sets=[{path: x, pairs: p.csv}]"},
                 "without evaluation: eval.sets=[]"},
        BadInput{"fp16", {"trainer.precision=fp16"}, "fp16 runs on CUDA only"},
        BadInput{"size", {"data.size=48"}, "32"},
        BadInput{"freeze", {"trainer.freeze=[nothing.here]"}, "no parameter matches"},
        BadInput{"freeze_all", {"trainer.freeze=['*']"}, "nothing is left to train"},
        BadInput{"best_of_nothing", {"checkpoint.keep_best=lfw.accuracy"}, "nothing is evaluated"},
        BadInput{"init", {"model.init=/nowhere.safetensors"}, "/nowhere.safetensors"}),
    [](const auto& info) { return info.param.name; });

TEST_F(Training, ARunFolderIsNeverOverwritten) {
  train(config("kept", {"trainer.steps=1"}), 2);
  expect_error([&] { train(config("kept", {"trainer.steps=1"}), 2); }, {"already exists"});
}

}  // namespace
}  // namespace facetrain
