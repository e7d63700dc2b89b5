// Every registered backbone, after 20 training-mode batches, in every format: written, verified,
// and, where FACETRAIN_EXCHANGE names a folder, left there with inputs and our embeddings for
// onnxruntime and torch.jit.load to repeat (tests/e2e/test_export.py).
#include <gtest/gtest.h>

#include <cstdlib>

#include "core/deferred.h"
#include "core/safetensors.h"
#include "export/exporter.h"
#include "tests/support/tiny_backbone.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

constexpr int64_t kSide = 32;

// Waves of many lengths: what repeats itself in an image, and differs between images.
torch::Tensor images(int64_t batch, double shift) {
  const auto n = torch::arange(batch * 3 * kSide * kSide, torch::kDouble);
  return ((n * 0.013 + shift).sin() + 0.5 * (n * 0.71 + 3 * shift).sin())
      .view({batch, 3, kSide, kSide})
      .to(torch::kFloat);
}

// Running statistics that belong to the weights: an untrained deep network overflows without.
std::shared_ptr<Backbone> warmed_network(const std::string& name) {
  auto network =
      create_backbone(Config::parse("name: " + name + "\n" + tiny_options(name)), {11, kSide});
  network->train();
  const torch::NoGradGuard no_grad;
  for (int batch = 0; batch < 20; ++batch) {
    network->forward(images(4, batch));
    for (const auto& module : network->modules())
      if (auto* deferred = dynamic_cast<Deferred*>(module.get())) deferred->commit();
  }
  network->eval();
  return network;
}

fs::path exchange_folder() {
  const char* given = std::getenv("FACETRAIN_EXCHANGE");
  const fs::path folder = given ? fs::path(given) : fs::path(::testing::TempDir()) / "exchange";
  fs::create_directories(folder);
  return folder;
}

class EveryBackbone : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryBackbone, IsWrittenInEveryFormat) {
  const auto network = warmed_network(GetParam());
  const fs::path folder = exchange_folder();
  for (const auto& format : Exporters::get().names()) {
    const Config section = Config::parse("{name: " + format + "}");
    const fs::path file =
        folder / (GetParam() + Exporters::get().create(section)->extensions().front());
    write_export(section, *network, {"model: {name: " + GetParam() + "}", "a test"}, file);
    EXPECT_GT(fs::file_size(file), 10'000u) << file;
  }
  NamedTensors pairs;
  const torch::NoGradGuard no_grad;
  for (const int64_t batch : {1, 3, 8}) {
    const auto input = images(batch, 0.3 + static_cast<double>(batch));
    const auto output = network->forward(input).embedding;
    ASSERT_TRUE(output.isfinite().all().item<bool>()) << batch;
    EXPECT_GT(output.std().item<double>(), 0) << batch;
    pairs.emplace_back("input_" + std::to_string(batch), input);
    pairs.emplace_back("output_" + std::to_string(batch), output);
  }
  save_safetensors(folder / (GetParam() + ".expected"), pairs);
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryBackbone, ::testing::ValuesIn(Backbones::get().names()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace facetrain
