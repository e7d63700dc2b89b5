// ResNet: torchvision's names, shapes and counts, gradients, maps, start and layer ids. That its
// features are timm's is tests/e2e/test_timm_trunks.py's to know.
#include <cmath>

#include "tests/support/error_of.h"
#include "tests/support/trunk_checks.h"

namespace facetrain {
namespace {

using Shapes = std::map<std::string, std::vector<int64_t>>;

void add_norm(Shapes& shapes, const std::string& name, int64_t channels) {
  for (const char* part : {"weight", "bias", "running_mean", "running_var"})
    shapes[name + "." + part] = {channels};
  shapes[name + ".num_batches_tracked"] = {};
}

// torchvision's resnet18 and resnet50 (stem 64) without fc.
Shapes published(int64_t stem, const std::vector<int64_t>& depths, bool bottleneck) {
  Shapes shapes{{"conv1.weight", {stem, 3, 7, 7}}};
  add_norm(shapes, "bn1", stem);
  int64_t in = stem;
  for (int64_t stage = 0; stage < 4; ++stage) {
    const int64_t planes = stem << stage, out = bottleneck ? 4 * planes : planes;
    for (int64_t k = 0; k < depths[stage]; ++k) {
      const auto block = fmt::format("layer{}.{}.", stage + 1, k);
      if (bottleneck) {
        shapes[block + "conv1.weight"] = {planes, in, 1, 1};
        shapes[block + "conv2.weight"] = {planes, planes, 3, 3};
        shapes[block + "conv3.weight"] = {out, planes, 1, 1};
        add_norm(shapes, block + "bn3", out);
      } else {
        shapes[block + "conv1.weight"] = {planes, in, 3, 3};
        shapes[block + "conv2.weight"] = {planes, planes, 3, 3};
      }
      add_norm(shapes, block + "bn1", planes);
      add_norm(shapes, block + "bn2", planes);
      if (k == 0 && (stage > 0 || bottleneck)) {
        shapes[block + "downsample.0.weight"] = {out, in, 1, 1};
        add_norm(shapes, block + "downsample.1", out);
      }
      in = out;
    }
  }
  return shapes;
}

TEST(ResNet, HasThePublicNamesShapesAndCounts) {
  const auto small = make_trunk("resnet18", "width: 0.25");
  const auto large = make_trunk("resnet50", "width: 0.25");
  EXPECT_EQ(shapes_of(*small), published(16, {2, 2, 2, 2}, false));
  EXPECT_EQ(shapes_of(*large), published(16, {3, 4, 6, 3}, true));
  // torchvision's 11,689,512 and 25,557,032 less a classifier of 1000.
  EXPECT_EQ(count_parameters(published(64, {2, 2, 2, 2}, false)), 11689512 - 513 * 1000);
  EXPECT_EQ(count_parameters(published(64, {3, 4, 6, 3}, true)), 25557032 - 2049 * 1000);
  EXPECT_EQ(small->dim(), 512 / 4);
  EXPECT_EQ(large->dim(), 2048 / 4);
  EXPECT_EQ(large->image_size(), 224);
}

TEST(ResNet, GivesTheMapsOfItsStagesAndTheirMean) {
  const auto network = make_trunk("resnet50", "width: 0.125, depths: [1, 2, 1, 1]", 64);
  network->eval();
  network->ask_for({"layer2.1", "layer4.0"});
  const auto features = network->forward(noise({2, 3, 64, 64}, 1));
  ASSERT_EQ(features.pyramid.size(), 4u);
  for (int64_t stage = 0; stage < 4; ++stage)
    EXPECT_EQ(features.pyramid[stage].sizes(),
              torch::IntArrayRef({2, 32 << stage, 16 >> stage, 16 >> stage}));
  const auto& last = features.pyramid[3];
  EXPECT_TRUE(features.tokens.equal(last.flatten(2).transpose(1, 2)));
  EXPECT_LE(largest_difference(features.embedding, last.mean({2, 3})), 1e-6);
  EXPECT_EQ(features.taps.size(), 2u);
  EXPECT_TRUE(features.taps.at("layer2.1").equal(features.pyramid[1]));
  EXPECT_TRUE(features.taps.at("layer4.0").equal(last));
  expect_error([&] { network->ask_for({"layer0.0"}); }, {"layer0.0", "layer1.0, layer2.0"});
}

TEST(ResNet, GradientsAreThoseOfDifferences) {
  for (const std::string name : {"resnet18", "resnet50"}) {
    const auto network = make_trunk(
        name, "width: 0.0625, depths: [1, 1, 2, 1], zero_init_last: false, embedding: 5", 32);
    expect_gradients(*network, noise({3, 3, 32, 32}, 2, torch::kDouble));
  }
}

TEST(ResNet, StartsAsItsShortcuts) {
  for (const bool zero : {true, false}) {
    const auto network =
        make_trunk("resnet50", fmt::format("width: 0.125, zero_init_last: {}", zero), 32);
    for (const auto& item : network->named_parameters())
      if (item.value().dim() == 1 && item.key().ends_with("weight")) {
        const bool last = item.key().ends_with("bn3.weight");
        EXPECT_TRUE(item.value().eq(last && zero ? 0 : 1).all().item<bool>()) << item.key();
      }
  }
  // Kaiming over the fan-out: 3x3 times 64 outputs.
  const auto weight = make_trunk("resnet18", "", 32)->named_parameters()["layer1.0.conv1.weight"];
  EXPECT_NEAR(weight.std().item<double>(), std::sqrt(2.0 / (9 * 64)), 0.001);
}

TEST(ResNet, LayersAreItsStages) {
  const auto network = make_trunk("resnet50", "width: 0.0625, embedding: 4", 32);
  EXPECT_EQ(network->layers(), 6);
  const std::map<std::string, int64_t> expected{
      {"conv1.weight", 0},          {"bn1.bias", 0},          {"layer1.0.downsample.1.weight", 1},
      {"layer3.5.conv3.weight", 3}, {"layer4.2.bn1.bias", 4}, {"feature.0.weight", 5},
      {"feature.1.bias", 5}};
  for (const auto& [name, layer] : expected) {
    EXPECT_TRUE(network->named_parameters().contains(name)) << name;
    EXPECT_EQ(network->layer_of(name), layer) << name;
  }
}

TEST(ResNet, DropsPathsByPositionAndRunsInHalfWidth) {
  const std::string options = "width: 0.125, zero_init_last: false";
  expect_drop_path_follows_positions(*make_trunk("resnet18", options + ", drop_path: 0.6", 32),
                                     noise({6, 3, 32, 32}, 3));
  expect_autocast(*make_trunk("resnet18", options, 64), noise({8, 3, 64, 64}, 4));
}

TEST(ResNet, TakesTheSizesThatItSays) {
  const auto network = make_trunk("resnet18", "width: 0.125, any_size: true", 64);
  network->eval();
  const auto features = network->forward(noise({2, 3, 96, 32}, 5));
  EXPECT_EQ(features.pyramid[3].sizes(), torch::IntArrayRef({2, 64, 3, 1}));
  expect_error([&] { network->forward(noise({2, 3, 24, 64}, 5)); }, {"sides from 32", "24, 64"});
  expect_error([] { make_trunk("resnet18", "", 24); }, {"32 pixels or more", "24"});
  expect_error([] { make_trunk("resnet18", "depths: [1, 1, 1]"); }, {"model.depths", "1, 1, 1"});
  expect_error([] { make_trunk("resnet18", "depths: [1, 1, 0, 1]"); }, {"one block at least"});
  expect_error([] { make_trunk("resnet18", "image_size: 64", 112); },
               {"model.image_size is 64", "data.size is 112"});
  EXPECT_EQ(make_trunk("resnet18", "image_size: 64")->image_size(), 64);
}

TEST(ResNet, AnEmbeddingOfItsOwnIsAHeadBehindTheFeature) {
  const auto network = make_trunk("resnet18", "width: 0.125, embedding: 12", 32);
  const auto plain = make_trunk("resnet18", "width: 0.125", 32);
  auto expected = shapes_of(*plain);
  expected["feature.0.weight"] = {12, 64};
  add_norm(expected, "feature.1", 12);
  EXPECT_EQ(shapes_of(*network), expected);
  EXPECT_EQ(network->dim(), 12);
  network->eval();
  plain->eval();
  const auto x = noise({3, 3, 32, 32}, 6);
  const auto head = network->named_parameters()["feature.0.weight"];
  const auto by_hand = plain->forward(x).embedding.matmul(head.t()) / std::sqrt(1 + 1e-5);
  EXPECT_LE(largest_difference(network->forward(x).embedding, by_hand), 1e-6);
}

}  // namespace
}  // namespace facetrain
