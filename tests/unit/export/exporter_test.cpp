// Every registered exporter: writes a file, verifies it, leaves nothing behind when it cannot;
// safetensors bit by bit.
#include "export/exporter.h"

#include <gtest/gtest.h>

#include <fstream>

#include "core/safetensors.h"
#include "tests/support/error_of.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;

std::shared_ptr<Backbone> small_network() {
  auto network =
      create_backbone(Config::parse("{name: iresnet18, width: 0.125, embedding: 16}"), {7, 32});
  network->eval();
  return network;
}

fs::path empty_folder() {
  const fs::path folder = fs::path(::testing::TempDir()) / "exporter";
  fs::remove_all(folder);
  fs::create_directories(folder);
  return folder;
}

class EveryExporter : public ::testing::TestWithParam<std::string> {};

TEST_P(EveryExporter, WritesOneVerifiedFile) {
  const fs::path folder = empty_folder();
  write_export(Config::parse("{name: " + GetParam() + "}"), *small_network(), {"{}", "a test"},
               folder / "network");
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path().filename());
  EXPECT_EQ(files, std::vector<fs::path>{"network"});
}

TEST_P(EveryExporter, NoticesAFileThatIsNotTheNetwork) {
  const fs::path file = empty_folder() / "network";
  const auto exporter = Exporters::get().create(Config::parse("{name: " + GetParam() + "}"));
  const auto network = small_network();
  exporter->write(*network, {"{}", "a test"}, file);
  EXPECT_NO_THROW(exporter->verify(*network, {"{}", "a test"}, file));
  {
    const torch::NoGradGuard no_grad;
    network->parameters().front().flatten()[0] += 1;
  }
  EXPECT_THROW(exporter->verify(*network, {"{}", "a test"}, file), Error);
}

INSTANTIATE_TEST_SUITE_P(Registry, EveryExporter, ::testing::ValuesIn(Exporters::get().names()));

TEST(Exporters, UnknownFormatListsTheKnown) {
  expect_error(
      [&] {
        write_export(Config::parse("{name: safetensor}"), *small_network(), {},
                     empty_folder() / "x");
      },
      {"did you mean 'safetensors'?", "known: "});
}

TEST(Exporters, AFileIsCalledAsItsFormatSays) {
  const auto check = [](const std::string& format, const std::string& file) {
    check_extension(Config::parse("{name: " + format + "}"), file);
  };
  for (const auto& name : Exporters::get().names()) {
    const auto endings =
        Exporters::get().create(Config::parse("{name: " + name + "}"))->extensions();
    ASSERT_FALSE(endings.empty());
    for (const auto& ending : endings) EXPECT_NO_THROW(check(name, "a/b.c" + ending));
  }
  expect_error([&] { check("onnx", "a.pt"); }, {"*.onnx", "for *.pt the format is torchscript"});
  expect_error([&] { check("torchscript", "a"); }, {"a: a file of format torchscript", "*.pt"});
}

TEST(Exporters, MissingFolderAndFolderAsFileAreErrors) {
  const Config section = Config::parse("{name: safetensors}");
  EXPECT_THROW(write_export(section, *small_network(), {}, "/nowhere/x"), Error);
  EXPECT_THROW(write_export(section, *small_network(), {}, empty_folder()), Error);
}

TEST(SafetensorsExporter, HasPublicNamesAndMetadata) {
  const fs::path file = empty_folder() / "n.safetensors";
  const auto network = small_network();
  write_export(Config::parse("{name: safetensors}"), *network,
               {"model: {name: iresnet18}\n", "run r"}, file);
  const SafetensorsFile written(file);
  EXPECT_EQ(written.metadata().at("facetrain.config"), "model: {name: iresnet18}\n");
  EXPECT_EQ(written.metadata().at("facetrain.origin"), "run r");
  EXPECT_EQ(written.metadata().at("format"), "pt");
  EXPECT_TRUE(written.has("conv1.weight"));
  EXPECT_TRUE(written.has("features.running_mean"));
  EXPECT_TRUE(
      torch::equal(written.read("conv1.weight"), network->named_parameters()["conv1.weight"]));
}

}  // namespace
}  // namespace facetrain
