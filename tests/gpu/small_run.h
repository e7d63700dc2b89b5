// A run small enough for a test: a narrow IResNet-18 on pictures of 32 pixels.
#pragma once

#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "tests/support/tiny_faces.h"
#include "trainer/run.h"

namespace facetrain::gpu {

// Of the pictures in folder/faces, into folder/run.
inline Config small_config(const std::filesystem::path& folder, const std::string& run,
                           const std::vector<std::string>& overrides) {
  Config config = Config::parse(fmt::format(R"(
run: {0}/{1}
data: {{train: 'folder:{0}/faces', size: 32, batch_size: 12, workers: 2}}
model: {{name: iresnet18, width: 0.0625, embedding: 16}}
loss: {{name: arcface, margin: 0.2, scale: 16}}
optimizer: {{name: sgd, lr: 0.001}}
schedule: {{name: constant}}
trainer: {{steps: 5, precision: fp32, threads: 1}}
checkpoint: {{every: 0}}
log: {{every: 1}}
)",
                                            folder.string(), run),
                                "small_run.yaml");
  config.override_with(overrides);
  resolve_config(config);
  return config;
}

inline void train(const Config& config, Communicator& comm, c10::Device device,
                  bool resume = false) {
  const RunEnd end = run_training({config, resume, false}, {comm, device, "a test"});
  EXPECT_EQ(end, RunEnd::kDone);
}

inline std::vector<double> losses(const std::filesystem::path& run) {
  std::ifstream in(run / "metrics.jsonl");
  std::vector<double> all;
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line);
    all.push_back(json.at("loss").is_null() ? NAN : json.at("loss").get<double>());
  }
  return all;
}

// Every tensor of the newest checkpoint of a run of one rank.
inline std::map<std::string, torch::Tensor> tensors(const std::filesystem::path& run) {
  std::map<std::string, torch::Tensor> all;
  const auto checkpoint = newest_checkpoint(run);
  if (!checkpoint) throw std::runtime_error("no checkpoint in " + run.string());
  for (const auto& item : std::filesystem::directory_iterator(*checkpoint)) {
    if (item.path().extension() != ".safetensors") continue;
    const SafetensorsFile file(item.path());
    for (const auto& [name, info] : file.tensors()) all[name] = file.read(name);
  }
  return all;
}

}  // namespace facetrain::gpu
