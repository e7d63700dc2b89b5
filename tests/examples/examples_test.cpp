// What docs/extending.md shows is compiled, registered and trained here.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "comm/thread_comm.h"
#include "data/synthetic_set.h"
#include "tests/support/tiny_faces.h"
#include "trainer/run.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

class Examples : public ::testing::Test {
 protected:
  Examples() {
    SyntheticSetOptions options;
    options.out = folder.path() / "faces";
    options.identities = 6;
    options.images = 4;
    options.size = 32;
    options.test_identities = 0;
    write_synthetic_set(options);
  }

  // Every line of metrics.jsonl of a run on two ranks.
  std::vector<nlohmann::json> train(const std::string& yaml) {
    const fs::path run = folder.path() / "run";
    Config config = Config::parse(yaml, "example.yaml");
    config.override_with(std::vector<std::string>{
        "run=" + run.string(), "data.train=" + (folder.path() / "faces").string(), "data.size=32",
        "data.batch_size=12", "trainer.threads=1", "trainer.precision=fp64", "log.every=1",
        "schedule.name=constant"});
    resolve_config(config);
    run_thread_ranks(2, [&](Communicator& comm) {
      const RunEnd end = run_training({config, false, false}, {comm, c10::kCPU, "thread ranks"});
      EXPECT_EQ(end, RunEnd::kDone);
    });
    std::vector<nlohmann::json> lines;
    std::ifstream in(run / "metrics.jsonl");
    for (std::string line; std::getline(in, line);) lines.push_back(nlohmann::json::parse(line));
    return lines;
  }

  TemporaryFolder folder;
};

TEST_F(Examples, MarginNetworkAndProtocol) {
  const auto lines = train(fmt::format(R"(
model: {{name: plain_network, width: 0.25, embedding: 16, batch_norm: sync}}
loss: {{name: proportional, margin: 0.2, scale: 16}}
optimizer: {{name: sgd, lr: 0.05}}
trainer: {{steps: 30}}
eval: {{every: 0, sets: []}}
)"));
  ASSERT_EQ(lines.size(), 30u);
  EXPECT_LT(lines.back().at("loss").get<double>(), 0.7 * lines.front().at("loss").get<double>());
}

TEST_F(Examples, ProtocolIsEvaluatedDuringTraining) {
  const auto lines = train(fmt::format(R"(
model: {{name: plain_network, width: 0.25, embedding: 16}}
loss: {{name: cosface, margin: 0.1, scale: 16}}
optimizer: {{name: sgd, lr: 0.05}}
trainer: {{steps: 40}}
eval: {{every: 40, sets: [{{name: same, protocol: neighbour, path: '{}'}}]}}
)",
                                       (folder.path() / "faces").string()));
  ASSERT_EQ(lines.size(), 41u);
  // Of 23 other images three are of the same person: 0.13 by chance.
  EXPECT_GT(lines.back().at("eval").at("same.accuracy").get<double>(), 0.3);
}

TEST_F(Examples, RecipeLearnsItsTask) {
  const auto lines = train(R"(
recipe: {name: landmarks}
model: {name: plain_network, width: 0.25, embedding: 16}
optimizer: {name: adamw, lr: 0.01}
trainer: {steps: 30}
)");
  ASSERT_EQ(lines.size(), 30u);
  EXPECT_LT(lines.back().at("loss").get<double>(), 0.5 * lines.front().at("loss").get<double>());
}

}  // namespace
}  // namespace facetrain
