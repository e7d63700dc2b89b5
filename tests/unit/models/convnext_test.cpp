// ConvNeXt: timm's names, shapes and counts, gradients, maps and layer ids. That its features are
// timm's is tests/e2e/test_timm_trunks.py's to know.
#include <cmath>
#include <filesystem>

#include "core/safetensors.h"
#include "tests/support/error_of.h"
#include "tests/support/trunk_checks.h"

namespace facetrain {
namespace {

using torch::Tensor;
using Shapes = std::map<std::string, std::vector<int64_t>>;

void add_pair(Shapes& shapes, const std::string& name, const std::vector<int64_t>& weight) {
  shapes[name + ".weight"] = weight;
  shapes[name + ".bias"] = {weight[0]};
}

// timm's convnext_* (96 and 128 channels) with num_classes=0.
Shapes published(int64_t dim, const std::vector<int64_t>& depths) {
  Shapes shapes;
  add_pair(shapes, "stem.0", {dim, 3, 4, 4});
  add_pair(shapes, "stem.1", {dim});
  add_pair(shapes, "head.norm", {8 * dim});
  for (int64_t stage = 0; stage < 4; ++stage) {
    const int64_t c = dim << stage;
    if (stage > 0) {
      add_pair(shapes, fmt::format("stages.{}.downsample.0", stage), {c / 2});
      add_pair(shapes, fmt::format("stages.{}.downsample.1", stage), {c, c / 2, 2, 2});
    }
    for (int64_t k = 0; k < depths[stage]; ++k) {
      const auto block = fmt::format("stages.{}.blocks.{}.", stage, k);
      add_pair(shapes, block + "conv_dw", {c, 1, 7, 7});
      add_pair(shapes, block + "norm", {c});
      add_pair(shapes, block + "mlp.fc1", {4 * c, c});
      add_pair(shapes, block + "mlp.fc2", {c, 4 * c});
      shapes[block + "gamma"] = {c};
    }
  }
  return shapes;
}

TEST(ConvNext, HasThePublicNamesShapesAndCounts) {
  const auto tiny = make_trunk("convnext_tiny", "width: 0.125");
  const auto base = make_trunk("convnext_base", "width: 0.125");
  EXPECT_EQ(shapes_of(*tiny), published(12, {3, 3, 9, 3}));
  EXPECT_EQ(shapes_of(*base), published(16, {3, 3, 27, 3}));
  // torchvision's 28,589,128 and 88,591,464 less a classifier of 1000.
  EXPECT_EQ(count_parameters(published(96, {3, 3, 9, 3})), 28589128 - 769 * 1000);
  EXPECT_EQ(count_parameters(published(128, {3, 3, 27, 3})), 88591464 - 1025 * 1000);
  EXPECT_EQ(tiny->dim(), 768 / 8);
  EXPECT_EQ(base->dim(), 1024 / 8);
  for (const auto& item : tiny->named_parameters())
    if (item.key().ends_with("gamma")) {
      EXPECT_TRUE(item.value().equal(torch::full_like(item.value(), 1e-6)));
    }
}

constexpr const char* kTiny = "width: 0.125, depths: [1, 1, 2, 1], layer_scale: 0.5";

// One block by the paper's words, in fp64, pixel by pixel.
TEST(ConvNext, ABlockIsItsFormula) {
  const auto network = make_trunk("convnext_tiny", kTiny, 32);
  to_dtype(*network, torch::kDouble);
  network->eval();
  const torch::NoGradGuard no_grad;
  network->ask_for({"stages.2.blocks.0", "stages.2.blocks.1"});
  const auto features = network->forward(noise({2, 3, 32, 32}, 1, torch::kDouble));
  const auto x = features.taps.at("stages.2.blocks.0");
  const auto y = features.taps.at("stages.2.blocks.1");
  EXPECT_TRUE(y.equal(features.pyramid[2]));
  auto p = network->named_parameters();
  const auto of = [&](const std::string& name) { return p["stages.2.blocks.1." + name]; };
  for (const auto [row, column] : {std::pair{0, 0}, {0, 1}, {1, 1}}) {
    auto mixed = of("conv_dw.bias").expand({2, -1}).clone();
    for (int64_t i = 0; i < 2; ++i)
      for (int64_t j = 0; j < 2; ++j)  // the whole 2x2 map lies inside the 7x7 kernel
        mixed += x.select(2, i).select(2, j) *
                 of("conv_dw.weight").select(1, 0).select(1, i - row + 3).select(1, j - column + 3);
    const auto centred = mixed - mixed.mean(1, true);
    const auto normed =
        centred / (centred.square().mean(1, true) + 1e-6).sqrt() * of("norm.weight") +
        of("norm.bias");
    const auto hidden = normed.matmul(of("mlp.fc1.weight").t()) + of("mlp.fc1.bias");
    const auto bent = hidden * 0.5 * (1 + torch::erf(hidden / std::sqrt(2.0)));
    const auto out = bent.matmul(of("mlp.fc2.weight").t()) + of("mlp.fc2.bias");
    const auto expected = x.select(2, row).select(2, column) + out * of("gamma");
    EXPECT_LE(largest_difference(y.select(2, row).select(2, column), expected), 1e-12);
  }
}

TEST(ConvNext, GivesTheMapsOfItsStagesAndTheNormOfTheirMean) {
  const auto network = make_trunk("convnext_tiny", kTiny, 56);
  network->eval();
  const auto features = network->forward(noise({2, 3, 56, 56}, 1));
  const std::vector<int64_t> sides{14, 7, 3, 1};
  for (int64_t stage = 0; stage < 4; ++stage)
    EXPECT_EQ(features.pyramid[stage].sizes(),
              torch::IntArrayRef({2, 12 << stage, sides[stage], sides[stage]}));
  EXPECT_EQ(features.tokens.sizes(), torch::IntArrayRef({2, 1, 96}));
  const auto mean = features.pyramid[3].mean({2, 3});
  EXPECT_LE(largest_difference(features.embedding, at::layer_norm(mean, {96}, {}, {}, 1e-6)), 1e-5);
}

TEST(ConvNext, GradientsAreThoseOfDifferences) {
  const auto network = make_trunk("convnext_tiny", std::string(kTiny) + ", embedding: 5", 32);
  expect_gradients(*network, noise({3, 3, 32, 32}, 2, torch::kDouble));
}

TEST(ConvNext, LayersAreItsBlocksInOrder) {
  const auto network = make_trunk("convnext_tiny", "width: 0.0625, embedding: 4", 32);
  EXPECT_EQ(network->layers(), 20);
  const std::map<std::string, int64_t> expected{{"stem.0.weight", 0},
                                                {"stem.1.bias", 0},
                                                {"stages.0.blocks.0.gamma", 1},
                                                {"stages.1.downsample.1.bias", 4},
                                                {"stages.1.blocks.0.norm.weight", 4},
                                                {"stages.2.blocks.8.mlp.fc1.weight", 15},
                                                {"stages.3.blocks.2.conv_dw.weight", 18},
                                                {"head.norm.weight", 19},
                                                {"feature.0.weight", 19}};
  for (const auto& [name, layer] : expected) {
    EXPECT_TRUE(network->named_parameters().contains(name)) << name;
    EXPECT_EQ(network->layer_of(name), layer) << name;
  }
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  return at == text.npos ? text : text.replace(at, from.size(), to);
}

TEST(ConvNext, ReadsItsAuthorsLayout) {
  const torch::NoGradGuard no_grad;
  const auto file = std::filesystem::path(testing::TempDir()) / "convnext_layout.safetensors";
  const auto from = make_trunk("convnext_tiny", kTiny, 32);
  NamedTensors saved{{"model.head.weight", torch::zeros({10, 96})}};
  for (const auto& item : from->named_parameters()) {
    auto name = replaced(item.key(), "stem.", "downsample_layers.0.");
    for (const char* stage : {"1", "2", "3"})
      name = replaced(name, fmt::format("stages.{}.downsample.", stage),
                      fmt::format("downsample_layers.{}.", stage));
    name = replaced(replaced(name, ".blocks.", "."), "conv_dw", "dwconv");
    name = replaced(replaced(name, "mlp.fc", "pwconv"), "head.norm.", "norm.");
    EXPECT_TRUE(name != item.key()) << name;
    saved.emplace_back("model." + name, item.value().detach());
  }
  save_safetensors(file, saved);
  const auto to = make_trunk("convnext_tiny", std::string(kTiny) + ", init: " + file.string(), 32,
                             /*seed=*/8);
  const auto x = noise({2, 3, 32, 32}, 3);
  EXPECT_TRUE(to->forward(x).embedding.equal(from->forward(x).embedding));
  std::filesystem::remove(file);
}

TEST(ConvNext, RecomputedBlocksGiveTheSameGradients) {
  const auto kept = make_trunk("convnext_tiny", kTiny, 32);
  const auto again =
      make_trunk("convnext_tiny", std::string(kTiny) + ", checkpoint_activations: true", 32);
  const auto x = noise({4, 3, 32, 32}, 3);
  for (auto* network : {kept.get(), again.get()}) score(network->forward(x)).backward();
  const auto expected = kept->named_parameters();
  for (const auto& item : again->named_parameters())
    EXPECT_TRUE(item.value().grad().equal(expected[item.key()].grad())) << item.key();
}

TEST(ConvNext, DropsPathsByPositionAndRunsInHalfWidth) {
  expect_drop_path_follows_positions(
      *make_trunk("convnext_tiny", std::string(kTiny) + ", drop_path: 0.6", 32),
      noise({6, 3, 32, 32}, 3));
  expect_autocast(*make_trunk("convnext_tiny", kTiny, 64), noise({4, 3, 64, 64}, 4));
}

TEST(ConvNext, TakesTheSizesThatItSays) {
  const auto network = make_trunk("convnext_tiny", std::string(kTiny) + ", any_size: true", 64);
  network->eval();
  EXPECT_EQ(network->forward(noise({2, 3, 33, 96}, 5)).pyramid[3].sizes(),
            torch::IntArrayRef({2, 96, 1, 3}));
  expect_error([&] { network->forward(noise({2, 3, 31, 64}, 5)); }, {"sides from 32", "31, 64"});
  expect_error([] { make_trunk("convnext_base", "", 24); }, {"32 pixels or more", "24"});
  expect_error([] { make_trunk("convnext_base", "depths: [3]"); }, {"model.depths", "[3]"});
}

}  // namespace
}  // namespace facetrain
