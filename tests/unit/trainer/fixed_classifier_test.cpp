// Whole runs against a fixed simplex, with every other option of the classifier: the rows are
// frozen by the classifier itself, are in the checkpoint at any world size without optimizer state,
// and stay what they are; the network is the same at any world size.
#include <gtest/gtest.h>

#include "comm/thread_comm.h"
#include "core/safetensors.h"
#include "losses/simplex.h"
#include "tests/support/error_of.h"
#include "tests/support/tiny_faces.h"
#include "trainer/checkpoint.h"
#include "trainer/run.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

Config config(const fs::path& folder, const std::string& run,
              const std::vector<std::string>& overrides) {
  Config result = Config::parse(fmt::format(R"(
run: {}
data: {{train: 'folder:{}', size: 32, batch_size: 12, workers: 1}}
model: {{name: iresnet18, width: 0.0625, embedding: 16, batch_norm: sync}}
loss: {{name: cosface, margin: 0.2, scale: 16}}
classifier: {{fixed: simplex, classes: 11, sample_rate: 0.5, rows: dense, label_smoothing: 0.1,
             focal_gamma: 2, filter_above: 0.4, unpg_whisker: 1.5}}
optimizer: {{name: sgd, lr: 0.05}}
schedule: {{name: constant}}
trainer: {{steps: 4, precision: fp64, threads: 1}}
checkpoint: {{every: 2, keep: 0}}
)",
                                            (folder / run).string(), (folder / "faces").string()),
                                "test.yaml");
  result.override_with(overrides);
  resolve_config(result);
  return result;
}

void train(const Config& config, int ranks, bool resume = false) {
  run_thread_ranks(ranks, [&](Communicator& comm) {
    ASSERT_EQ(comm.size(), ranks);
    EXPECT_EQ(run_training({config, resume, false}, {comm, c10::kCPU, "thread ranks"}),
              RunEnd::kDone);
  });
}

// The tensors of the newest checkpoint whose names start so, rows of all ranks joined.
std::map<std::string, torch::Tensor> tensors(const fs::path& run, const std::string& prefix) {
  std::map<std::string, torch::Tensor> all;
  for (int rank = -2; rank < 4; ++rank) {
    const std::string name = rank == -2   ? "model"
                             : rank == -1 ? "optimizer"
                                          : "rows_" + std::to_string(rank);
    const fs::path path = *newest_checkpoint(run) / (name + ".safetensors");
    if (!fs::exists(path)) continue;
    const SafetensorsFile file(path);
    for (const auto& [key, info] : file.tensors()) {
      if (!key.starts_with(prefix)) continue;
      all[key] = all.contains(key) ? torch::cat({all[key], file.read(key)}) : file.read(key);
    }
  }
  return all;
}

TEST(FixedClassifier, IsInTheCheckpointAndNeverMoves) {
  const TemporaryFolder folder;
  write_tiny_faces(folder.path() / "faces", 7, 6, 32);
  const torch::Tensor rows = simplex_rows({0, 11}, 11, 16).to(torch::kDouble);
  std::map<std::string, torch::Tensor> first;
  for (const int ranks : {1, 3}) {
    SCOPED_TRACE(ranks);
    const std::string run = "run" + std::to_string(ranks);
    train(config(folder.path(), run, {}), ranks);
    const auto classifier = tensors(folder.path() / run, "classifier");
    ASSERT_EQ(classifier.size(), 1u);  // no momentum
    EXPECT_TRUE(torch::equal(classifier.at("classifier.weight"), rows));
    const auto backbone = tensors(folder.path() / run, "backbone");
    EXPECT_GT(backbone.size(), 10u);
    if (ranks == 1) first = backbone;
    for (const auto& [name, tensor] : backbone) {
      const torch::Tensor wanted = first.at(name).to(torch::kDouble);
      const torch::Tensor error = (tensor.to(torch::kDouble) - wanted).abs();
      EXPECT_LE((error / wanted.abs().clamp_min(1)).max().item<double>(), 1e-6) << name;
    }
  }
  // Resumed from step 2 at another world size.
  fs::remove_all(folder.path() / "run3" / "step_000000004");
  train(config(folder.path(), "run3", {}), 2, /*resume=*/true);
  EXPECT_TRUE(
      torch::equal(tensors(folder.path() / "run3", "classifier").at("classifier.weight"), rows));
  for (const auto& [name, tensor] : tensors(folder.path() / "run3", "backbone"))
    EXPECT_TRUE(
        torch::allclose(tensor.to(torch::kDouble), first.at(name).to(torch::kDouble), 1e-6, 1e-6))
        << name;
}

TEST(FixedClassifier, AndWhatAMarginCannotCarryAreErrorsAtTheStart) {
  const TemporaryFolder folder;
  write_tiny_faces(folder.path() / "faces", 4, 3, 32);
  const auto refusal = [&](const std::vector<std::string>& overrides) {
    return error_of([&] { train(config(folder.path(), "bad", overrides), 1); });
  };
  expect_parts(refusal({"model.embedding=8"}),
               {"classifier.fixed", "11 classes", "at least 10 dimensions", "found 8"});
  expect_parts(refusal({"loss.name=softmax", "classifier.filter_above=0"}),
               {"classifier.unpg_whisker = 1.5", "wants cosines"});
}

}  // namespace
}  // namespace facetrain
