// A network from a run, a checkpoint, an exported file or bare weights; and what each kind of wrong
// input says.
#include "trainer/model_loader.h"

#include <gtest/gtest.h>
#include <torch/csrc/jit/api/module.h>

#include <fstream>

#include "core/check.h"
#include "core/safetensors.h"
#include "core/torch.h"
#include "export/exporter.h"
#include "tests/support/error_of.h"
#include "trainer/checkpoint.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

constexpr const char* kConfig =
    "run: somewhere\nmodel: {name: iresnet18, width: 0.125, embedding: 16, init: "
    "/gone/weights.safetensors}\n"
    "data: {train: /gone/set, size: 32, fit: resize, normalize: imagenet}\nloss: {name: arcface}\n";

class ModelLoader : public ::testing::Test {
 protected:
  void SetUp() override {
    folder = fs::path(::testing::TempDir()) / "model_loader";
    fs::remove_all(folder);
    fs::create_directories(folder);
    network =
        create_backbone(Config::parse("{name: iresnet18, width: 0.125, embedding: 16}"), {3, 32});
    network->eval();
  }
  // A checkpoint of the network as the trainer lays it out; with averages of `average` everywhere.
  fs::path write_checkpoint(const fs::path& run, int64_t step, std::optional<double> average = {}) {
    const fs::path checkpoint = run / checkpoint_name(step);
    fs::create_directories(checkpoint);
    NamedTensors tensors;
    for (const auto& [name, tensor] : public_tensors(*network))
      tensors.emplace_back("backbone." + name, tensor);
    if (average)
      for (const auto& item : network->named_parameters())
        tensors.emplace_back("ema.backbone." + item.key(),
                             torch::full_like(item.value(), *average));
    save_safetensors(checkpoint / "model.safetensors", tensors);
    CheckpointMeta meta;
    meta.state.step = step;
    meta.config = kConfig;
    write_meta(checkpoint, meta);
    std::ofstream(run / "latest") << checkpoint_name(step) << "\n";
    std::ofstream(run / "config.yaml") << kConfig;
    return checkpoint;
  }
  void expect_same(const LoadedModel& model) {
    const auto expected = public_tensors(*network), found = public_tensors(*model.backbone);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t k = 0; k < found.size(); ++k)
      EXPECT_TRUE(torch::equal(found[k].second, expected[k].second));
    EXPECT_FALSE(model.backbone->is_training());
    EXPECT_EQ(model.images.size, 32);
  }
  std::string loading_error(const std::string& what,
                            const std::vector<std::string>& overrides = {}) {
    return error_of([&] { load_model(what, overrides, c10::kCPU); });
  }
  fs::path folder;
  std::shared_ptr<Backbone> network;
};

TEST_F(ModelLoader, RunAndCheckpoint) {
  const fs::path checkpoint = write_checkpoint(folder, 12);
  std::ofstream(folder / "best") << checkpoint_name(12) << "\n";
  for (const fs::path& what : {folder, checkpoint, folder / "latest", folder / "best"}) {
    const auto model = load_model(what.string(), {}, c10::kCPU);
    expect_same(model);
    EXPECT_EQ(model.images.fit, "resize");
    EXPECT_NEAR(model.normalization.mean[0], 0.485 * 255, 1e-9);
    EXPECT_NE(model.describe.find("step_000000012"), std::string::npos) << model.describe;
    EXPECT_EQ(model.config.find("/gone"), std::string::npos) << model.config;
  }
}

TEST_F(ModelLoader, ExportedFileNeedsNothingElse) {
  write_checkpoint(folder, 1);
  const auto model = load_model(folder.string(), {}, c10::kCPU);
  const fs::path file = folder / "out.safetensors";
  write_export(Config::parse("{name: safetensors}"), *model.backbone,
               {model.config, model.describe}, file);
  const auto again = load_model(file.string(), {}, c10::kCPU);
  expect_same(again);
  EXPECT_EQ(again.images.fit, "resize");
  EXPECT_NEAR(again.normalization.deviation[2], 0.225 * 255, 1e-9);
  const at::Tensor images =
      torch::arange(2 * 32 * 32 * 3).remainder(251).to(torch::kByte).view({2, 32, 32, 3});
  EXPECT_TRUE(torch::equal(embed_function(model, c10::kCPU)(images),
                           embed_function(again, c10::kCPU)(images)));
}

TEST_F(ModelLoader, SaysWhichTensorsAnotherImageSizeLeavesRandom) {
  const fs::path checkpoint = write_checkpoint(folder, 12);
  const std::string error = loading_error(checkpoint.string(), {"data.size=48"});
  expect_parts(error,
               {"1 of another shape: fc.weight", "another data.size", "leave the rest random"});
  ::testing::internal::CaptureStderr();
  load_model(checkpoint.string(), std::vector<std::string>{"data.size=48", "model.strict=false"},
             c10::kCPU);
  expect_parts(::testing::internal::GetCapturedStderr(),
               {"of the network, 1 tensor is not loaded and random: fc.weight"});
}

TEST_F(ModelLoader, BareWeightsNeedAName) {
  const fs::path file = folder / "bare.safetensors";
  NamedTensors tensors;
  for (const auto& [name, tensor] : public_tensors(*network)) tensors.emplace_back(name, tensor);
  save_safetensors(file, tensors);
  EXPECT_NE(loading_error(file.string()).find("add model.name="), std::string::npos)
      << loading_error(file.string());
  expect_same(load_model(
      file.string(),
      std::vector<std::string>{"model.name=iresnet18", "model.width=0.125", "model.embedding=16",
                               "data.size=32", "data.normalize=face"},
      c10::kCPU));
}

TEST_F(ModelLoader, TorchScriptFileRunsItsOwnGraph) {
  write_checkpoint(folder, 1);
  const auto model = load_model(folder.string(), {}, c10::kCPU);
  const fs::path file = folder / "out.pt";
  write_export(Config::parse("{name: torchscript}"), *model.backbone,
               {model.config, model.describe}, file);
  const auto again =
      load_model(file.string(), std::vector<std::string>{"data.fit=crop"}, c10::kCPU);
  EXPECT_EQ(again.images.size, 32);
  EXPECT_EQ(again.images.fit, "crop");
  EXPECT_NEAR(again.normalization.deviation[2], 0.225 * 255, 1e-9);
  EXPECT_EQ(again.backbone->dim(), 16);
  EXPECT_TRUE(again.backbone->parameters().empty());
  for (const int64_t batch : {1, 5}) {
    const at::Tensor images = torch::arange(batch * 32 * 32 * 3).remainder(251).to(torch::kByte);
    const at::Tensor expected = embed_function(model, c10::kCPU)(images.view({batch, 32, 32, 3}));
    const at::Tensor found = embed_function(again, c10::kCPU)(images.view({batch, 32, 32, 3}));
    EXPECT_TRUE(torch::allclose(found, expected, 0, 1e-6 * expected.abs().max().item<double>()));
  }
  expect_parts(loading_error(file.string(), {"model.width=0.5"}), {"model.width=0.5", "nothing"});
  expect_parts(loading_error(file.string(), {"data.size=48"}), {"[1, 3, 48, 48]", "data.size"});
  expect_error(
      [&] {
        write_export(Config::parse("{name: safetensors}"), *again.backbone,
                     {again.config, again.describe}, folder / "again.safetensors");
      },
      {"no weights to export again"});
  EXPECT_FALSE(fs::exists(folder / "again.safetensors"));
}

TEST_F(ModelLoader, TorchScriptOfOthersNeedsItsInput) {
  const std::string file = (folder / "theirs.pt").string();
  torch::jit::Module module("Theirs");
  module.define("def forward(self, x):\n  return x.mean(3).flatten(1)\n");
  module.save(file);
  expect_parts(loading_error(file), {"does not say what its input is", "data.size=PIXELS"});
  expect_parts(loading_error(file, {"data.size=4"}), {"data.normalize=face"});
  const std::vector<std::string> words{"data.size=4", "data.normalize=face"};
  const auto model = load_model(file, words, c10::kCPU);
  EXPECT_EQ(model.backbone->dim(), 12);
  const at::Tensor white = torch::full({2, 4, 4, 3}, 255, torch::kByte);
  EXPECT_TRUE(torch::equal(embed_function(model, c10::kCPU)(white), torch::ones({2, 12})));

  torch::jit::Module flat("Flat");
  flat.define("def forward(self, x):\n  return x.flatten()\n");
  flat.save(file);
  expect_parts(loading_error(file, words), {"wanted an embedding [1, D]", "[48]"});
}

TEST_F(ModelLoader, AveragesArePreferredAndBuffersStay) {
  write_checkpoint(folder, 5, 0.25);
  const auto model = load_model(folder.string(), {}, c10::kCPU);
  EXPECT_NE(model.describe.find("averaged weights"), std::string::npos);
  for (const auto& parameter : model.backbone->parameters())
    EXPECT_TRUE((parameter == 0.25).all().item<bool>());
  const auto expected = network->named_buffers();
  for (const auto& item : model.backbone->named_buffers())
    EXPECT_TRUE(torch::equal(item.value(), expected[item.key()]));
}

TEST_F(ModelLoader, WrongInputIsNamed) {
  EXPECT_NE(loading_error("/nowhere").find("there is no '/nowhere'"), std::string::npos);
  EXPECT_NE(loading_error(folder.string()).find("neither a run nor a checkpoint"),
            std::string::npos);
  std::ofstream(folder / "config.yaml") << kConfig;
  EXPECT_NE(loading_error(folder.string()).find("has no checkpoint yet"), std::string::npos);
  std::ofstream(folder / "x.txt") << "x";
  EXPECT_NE(loading_error((folder / "x.txt").string()).find("wanted a run folder"),
            std::string::npos);
  std::ofstream(folder / "x.onnx") << "x";
  expect_parts(loading_error((folder / "x.onnx").string()), {"runs no ONNX", ".safetensors"});
  write_checkpoint(folder, 2);
  EXPECT_NE(loading_error(folder.string(), {"model.width=0.25"}).find("do not fit"),
            std::string::npos);
  expect_parts(
      loading_error(folder.string(), {"modell.width=0.25"}),
      {"unknown key 'modell.width' (did you mean 'model'?)", "takes keys of: data, model"});
  expect_parts(loading_error(folder.string(), {"device=cuda"}), {"'device'", "--device cuda"});
}

}  // namespace
}  // namespace facetrain
