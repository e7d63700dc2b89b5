// Swin: timm's names, shapes and counts, windows against a direct statement of who sees whom,
// gradients, maps, the condition slot and layer ids. That its features are timm's is
// tests/e2e/test_timm_trunks.py's to know.
#include "models/swin.h"

#include <algorithm>
#include <cmath>
#include <filesystem>

#include "core/freeze.h"
#include "core/safetensors.h"
#include "models/window_attention.h"
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

// timm's swin_*_patch4_window7_224 (96 and 128 channels) with num_classes=0.
Shapes published(int64_t dim, const std::vector<int64_t>& depths, int64_t heads) {
  Shapes shapes;
  add_pair(shapes, "patch_embed.proj", {dim, 3, 4, 4});
  add_pair(shapes, "patch_embed.norm", {dim});
  add_pair(shapes, "norm", {8 * dim});
  for (int64_t stage = 0; stage < 4; ++stage) {
    const int64_t c = dim << stage;
    const auto prefix = fmt::format("layers.{}.", stage);
    if (stage > 0) {
      add_pair(shapes, prefix + "downsample.norm", {2 * c});
      shapes[prefix + "downsample.reduction.weight"] = {c, 2 * c};
    }
    for (int64_t k = 0; k < depths[stage]; ++k) {
      const auto block = fmt::format("{}blocks.{}.", prefix, k);
      add_pair(shapes, block + "norm1", {c});
      add_pair(shapes, block + "norm2", {c});
      add_pair(shapes, block + "attn.qkv", {3 * c, c});
      add_pair(shapes, block + "attn.proj", {c, c});
      add_pair(shapes, block + "mlp.fc1", {4 * c, c});
      add_pair(shapes, block + "mlp.fc2", {c, 4 * c});
      shapes[block + "attn.relative_position_bias_table"] = {169, heads << stage};
    }
  }
  return shapes;
}

TEST(Swin, HasThePublicNamesShapesAndCounts) {
  const struct {
    const char* name;
    int64_t dim, third, heads, count;  // torchvision's, with a classifier of 1000
  } networks[] = {{"swin_tiny_patch4_window7_224", 96, 6, 3, 28288354},
                  {"swin_small_patch4_window7_224", 96, 18, 3, 49606258},
                  {"swin_base_patch4_window7_224", 128, 18, 4, 87768224}};
  for (const auto& [name, dim, third, heads, count] : networks) {
    const auto network = make_trunk(name, "width: 0.125");
    EXPECT_EQ(shapes_of(*network), published(dim / 8, {2, 2, third, 2}, heads)) << name;
    EXPECT_EQ(count_parameters(published(dim, {2, 2, third, 2}, heads)),
              count - (8 * dim + 1) * 1000);
    EXPECT_EQ(network->dim(), dim);
    EXPECT_TRUE(network->buffers().empty());
  }
}

// Attention as the paper states it, without rolling: windows lie on a grid that begins `shift`
// pixels inside, those at the border are cut off, and each pixel sees its window. Sides that the
// window does not divide go on with zeros (without a shift).
Tensor stated(WindowAttentionImpl& attention, const Tensor& map, int64_t window, int64_t shift,
              int64_t heads) {
  const int64_t height = (map.size(0) + window - 1) / window * window;
  const int64_t width = (map.size(1) + window - 1) / window * window, dim = map.size(2);
  auto padded = torch::zeros({height, width, dim}, map.options());
  padded.slice(0, 0, map.size(0)).slice(1, 0, map.size(1)).copy_(map);
  const auto all = attention.qkv(padded.view({-1, dim}));
  const auto cell = [&](int64_t i) {  // of the shifted grid; -1 is the one that is cut off
    return i - shift < 0 ? -1 : (i - shift) / window;
  };
  auto out = torch::zeros_like(map);
  const int64_t head = dim / heads;
  for (int64_t y = 0; y < map.size(0); ++y)
    for (int64_t x = 0; x < map.size(1); ++x) {
      std::vector<int64_t> seen, rows;
      for (int64_t v = 0; v < height; ++v)
        for (int64_t u = 0; u < width; ++u)
          if (cell(v) == cell(y) && cell(u) == cell(x)) {
            seen.push_back(v * width + u);
            rows.push_back((y - v + window - 1) * (2 * window - 1) + (x - u + window - 1));
          }
      const auto keys = all.index_select(0, torch::tensor(seen));
      const auto bias = attention.relative_position_bias_table.index_select(0, torch::tensor(rows));
      for (int64_t h = 0; h < heads; ++h) {
        const auto query = all[y * width + x].narrow(0, h * head, head);
        const auto scores =
            keys.narrow(1, dim + h * head, head).mv(query) / std::sqrt(static_cast<double>(head)) +
            bias.select(1, h);
        const auto mixed = keys.narrow(1, 2 * dim + h * head, head).t().mv(scores.softmax(0));
        out[y][x].narrow(0, h * head, head).copy_(mixed);
      }
    }
  return attention.proj(out.view({-1, dim})).view_as(map);
}

TEST(Swin, WindowsSeeWhatThePaperSays) {
  const torch::NoGradGuard no_grad;
  const struct {
    int64_t height, width, window, shift;
  } cases[] = {{6, 9, 3, 1}, {8, 8, 4, 2}, {6, 6, 3, 0}, {5, 7, 3, 0}, {4, 4, 4, 0}, {5, 10, 5, 2}};
  for (const auto& [height, width, window, shift] : cases) {
    SCOPED_TRACE(fmt::format("{} x {}, window {}, shift {}", height, width, window, shift));
    WindowAttentionImpl attention(6, 2, window, shift);
    to_dtype(attention, torch::kDouble);
    uint64_t seed = 1;
    for (auto& parameter : attention.parameters())
      parameter.copy_(noise(parameter.sizes(), ++seed, torch::kDouble));
    const auto maps = noise({2, height, width, 6}, 9, torch::kDouble);
    const auto found = attention.forward(maps);
    for (int64_t b = 0; b < 2; ++b)
      EXPECT_LE(largest_difference(found[b], stated(attention, maps[b], window, shift, 2)), 1e-12);
  }
}

constexpr const char* kName = "swin_tiny_patch4_window7_224";
constexpr const char* kTiny = "embed_dim: 8, depths: [2, 2, 1], heads: [2, 2, 4], window: 4";

TEST(Swin, GivesTheMapsOfItsStagesAndTheMeanOfItsTokens) {
  const auto network = make_trunk(kName, "width: 0.125", 56);
  network->eval();
  network->ask_for({"layers.2.blocks.5"});
  const auto features = network->forward(noise({2, 3, 56, 56}, 1));
  const std::vector<int64_t> sides{14, 7, 4, 2};
  for (int64_t stage = 0; stage < 4; ++stage)
    EXPECT_EQ(features.pyramid[stage].sizes(),
              torch::IntArrayRef({2, 12 << stage, sides[stage], sides[stage]}));
  EXPECT_TRUE(features.taps.at("layers.2.blocks.5").equal(features.pyramid[2]));
  EXPECT_EQ(features.tokens.sizes(), torch::IntArrayRef({2, 4, 96}));
  EXPECT_LE(largest_difference(features.embedding, features.tokens.mean(1)), 1e-6);
  const auto normed = at::layer_norm(features.pyramid[3].flatten(2).transpose(1, 2), {96});
  EXPECT_LE(largest_difference(features.tokens, normed), 1e-5);
}

// PETALface's network (reference/ssl_peft_unlearning.md 3.4) at a sixteenth of its width.
TEST(Swin, OptionsMakeTheNetworksOfFaces) {
  const auto petal = make_trunk("swin_base_patch4_window7_224",
                                "patch: 6, window: 5, embed_dim: 384, depths: [2, 18, 2], heads: "
                                "[8, 16, 16], image_size: 120, width: 0.0625, embedding: 32");
  petal->eval();
  const auto features = petal->forward(noise({1, 3, 120, 120}, 1));
  ASSERT_EQ(features.pyramid.size(), 3u);
  EXPECT_EQ(features.pyramid[0].sizes(), torch::IntArrayRef({1, 24, 20, 20}));
  EXPECT_EQ(features.pyramid[2].sizes(), torch::IntArrayRef({1, 96, 5, 5}));
  EXPECT_EQ(features.embedding.sizes(), torch::IntArrayRef({1, 32}));
  auto shapes = shapes_of(*petal);
  EXPECT_EQ(shapes["layers.1.blocks.17.attn.relative_position_bias_table"],
            (std::vector<int64_t>{81, 16}));
  const auto face = make_trunk(kName, "patch: 2, width: 0.125", 112);
  EXPECT_EQ(face->forward(noise({1, 3, 112, 112}, 1)).pyramid[0].sizes(),
            torch::IntArrayRef({1, 12, 56, 56}));
}

TEST(Swin, GradientsAreThoseOfDifferences) {
  for (const std::string more : {"", ", condition: stages, condition_weight: 0.3"}) {
    const auto network = make_trunk(kName, std::string(kTiny) + ", embedding: 5" + more, 32);
    expect_gradients(*network, noise({3, 3, 32, 32}, 2, torch::kDouble));
  }
}

TEST(Swin, TheConditionTurnsEveryStage) {
  const auto network = make_trunk(kName, std::string(kTiny) + ", condition: stages", 32);
  const auto plain = make_trunk(kName, kTiny, 32);
  const auto x = noise({3, 3, 32, 32}, 3);
  const torch::NoGradGuard no_grad;
  auto p = network->named_parameters();
  // Behind a stage the map has the next one's channels; behind the last its own.
  EXPECT_EQ(p["semantic_embed_w.0.weight"].sizes(), torch::IntArrayRef({16, 2}));
  EXPECT_EQ(p["semantic_embed_b.1.weight"].sizes(), torch::IntArrayRef({32, 2}));
  EXPECT_EQ(p["semantic_embed_w.2.weight"].sizes(), torch::IntArrayRef({32, 2}));
  // softplus(b) = 1 and no shift: the network without a slot.
  for (int stage = 0; stage < 3; ++stage) {
    p[fmt::format("semantic_embed_w.{}.weight", stage)].zero_();
    p[fmt::format("semantic_embed_w.{}.bias", stage)].fill_(std::log(std::exp(1.0) - 1));
    p[fmt::format("semantic_embed_b.{}.weight", stage)].zero_();
  }
  EXPECT_LE(largest_difference(network->forward(x).embedding, plain->forward(x).embedding), 1e-5);
  // The last stage's pair works on what the final norm sees: x · softplus(A λ) + C λ by hand.
  p["semantic_embed_w.2.weight"].copy_(noise({32, 2}, 4));
  p["semantic_embed_b.2.weight"].copy_(noise({32, 2}, 5));
  const auto lambda = torch::tensor({1.0F, 0.0F, 0.25F});
  auto& slot = dynamic_cast<ConditionedBackbone&>(*network);
  const auto found = slot.forward_conditioned(x, lambda);
  const auto pair = torch::stack({lambda, 1 - lambda}, 1);
  const auto a = pair.matmul(p["semantic_embed_w.2.weight"].t()) + p["semantic_embed_w.2.bias"];
  const auto c = pair.matmul(p["semantic_embed_b.2.weight"].t());
  const auto last = found.pyramid[2].flatten(2).transpose(1, 2);
  const auto turned = last * (a.exp() + 1).log().unsqueeze(1) + c.unsqueeze(1);
  EXPECT_LE(largest_difference(found.tokens, at::layer_norm(turned, {32})), 1e-5);
}

TEST(Swin, EverySampleHasItsOwnCondition) {
  const auto options = std::string(kTiny) + ", condition: stages, condition_weight: ";
  const auto x = noise({2, 3, 32, 32}, 3);
  const auto network = make_trunk(kName, options + "1", 32);
  for (auto& item : network->named_parameters())
    if (item.key().starts_with("semantic_embed")) {
      const torch::NoGradGuard no_grad;
      item.value().mul_(30);
    }
  auto& slot = dynamic_cast<ConditionedBackbone&>(*network);
  EXPECT_TRUE(slot.conditioned());
  const auto both = slot.forward_conditioned(x, torch::tensor({1.0F, 0.0F})).embedding;
  const auto ones = network->forward(x).embedding;  // model.condition_weight
  EXPECT_LE(largest_difference(both[0], ones[0]), 1e-6);
  EXPECT_GT(largest_difference(both[1], ones[1]), 1e-3);
  expect_error([&] { slot.forward_conditioned(x, torch::ones({3})); }, {"each of 2 images", "[3]"});
  const auto none = make_trunk(kName, kTiny, 32);
  auto& without = dynamic_cast<ConditionedBackbone&>(*none);
  EXPECT_FALSE(without.conditioned());
  expect_error([&] { without.forward_conditioned(x, torch::ones({2})); }, {"model.condition"});
}

// SOLIDER's code keeps a fourth pair of layers and never uses its result.
TEST(Swin, AsReleasedTheLastConditionIsFrozenAndUnused) {
  const auto x = noise({2, 3, 32, 32}, 3);
  const torch::NoGradGuard no_grad;
  for (const bool released : {true, false}) {
    const auto network = make_trunk(
        kName, fmt::format("{}, condition: {}", kTiny, released ? "as_released" : "stages"), 32);
    const auto before = network->forward(x).embedding;
    const auto frozen = dynamic_cast<FreezePolicy&>(*network).frozen();
    EXPECT_EQ(frozen, released ? std::vector<std::string>{"semantic_embed_*.2.*"}
                               : std::vector<std::string>{});
    network->named_parameters()["semantic_embed_w.2.weight"].copy_(noise({32, 2}, 4));
    EXPECT_EQ(network->forward(x).embedding.equal(before), released);
    network->named_parameters()["semantic_embed_w.1.weight"].copy_(noise({32, 2}, 4));
    EXPECT_FALSE(network->forward(x).embedding.equal(before));
  }
}

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const auto at = text.find(from);
  return at == text.npos ? text : text.replace(at, from.size(), to);
}

// A network of the file's weights gives the features of the network that was saved.
void expect_loads(Backbone& from, const NamedTensors& saved, const std::string& options) {
  const auto file = std::filesystem::path(testing::TempDir()) / "swin_layout.safetensors";
  save_safetensors(file, saved);
  const auto to = make_trunk(kName, options + ", init: " + file.string(), 32, /*seed=*/8);
  const auto x = noise({2, 3, 32, 32}, 3);
  EXPECT_TRUE(to->forward(x).embedding.equal(from.forward(x).embedding));
  std::filesystem::remove(file);
}

TEST(Swin, ReadsMicrosoftsLayout) {
  const torch::NoGradGuard no_grad;
  const auto from = make_trunk(kName, kTiny, 32);
  NamedTensors saved{{"model.layers.0.blocks.0.attn.relative_position_index", torch::zeros({256})},
                     {"model.layers.0.blocks.1.attn_mask", torch::zeros({4, 16, 16})},
                     {"model.head.weight", torch::zeros({10, 32})}};
  for (const auto& item : from->named_parameters()) {
    auto name = replaced(item.key(), "layers.1.downsample", "layers.0.downsample");
    if (name == item.key()) name = replaced(name, "layers.2.downsample", "layers.1.downsample");
    saved.emplace_back("model." + name, item.value().detach());
  }
  expect_loads(*from, saved, kTiny);
}

// A merging's last axis as PyTorch's unfold has it: for each channel rows, then columns.
Tensor unfolded(const Tensor& ours) {
  auto theirs = torch::empty_like(ours);
  const int64_t channels = ours.size(-1) / 4;
  for (int64_t c = 0; c < channels; ++c)
    for (int64_t row = 0; row < 2; ++row)
      for (int64_t column = 0; column < 2; ++column)
        theirs.select(-1, 4 * c + 2 * row + column)
            .copy_(ours.select(-1, (2 * column + row) * channels + c));
  return theirs;
}

TEST(Swin, ReadsSolidersLayout) {
  const torch::NoGradGuard no_grad;
  const auto options = std::string(kTiny) + ", condition: as_released";
  const auto from = make_trunk(kName, options, 32);
  for (auto& parameter : from->parameters())
    if (parameter.dim() == 1) parameter.add_(noise(parameter.sizes(), parameter.numel()));
  NamedTensors saved{{"teacher.backbone.norm0.weight", torch::zeros({8})},
                     {"teacher.backbone.norm1.bias", torch::zeros({16})},
                     {"student.module.head.mlp.0.weight", torch::zeros({2, 2})}};
  for (const auto& item : from->named_parameters()) {
    auto name = replaced(item.key(), "patch_embed.proj", "patch_embed.projection");
    if (name == "norm.weight" || name == "norm.bias") name = replaced(name, "norm", "norm2");
    name = replaced(replaced(name, ".attn.", ".attn.w_msa."), ".mlp.fc1.", ".ffn.layers.0.0.");
    name = replaced(replaced(name, ".mlp.fc2.", ".ffn.layers.1."), "layers.", "stages.");
    name = replaced(name, ".ffn.stages.", ".ffn.layers.");
    const bool merging = name.find("downsample") != name.npos;
    if (merging) name = replaced(name, name.substr(7, 1), std::to_string(name.at(7) - '1'));
    saved.emplace_back("teacher.backbone." + name,
                       merging ? unfolded(item.value()) : item.value().detach());
  }
  ASSERT_EQ(saved[3 + 2].first.substr(0, 17), "teacher.backbone.");
  expect_loads(*from, saved, options);
}

TEST(Swin, TablesOfAnotherWindowAreInterpolated) {
  const torch::NoGradGuard no_grad;
  const auto file = std::filesystem::path(testing::TempDir()) / "swin_tables.safetensors";
  const auto from = make_trunk(kName, kTiny, 64);  // windows of 4, and in the last stage too
  const std::string name = "layers.0.blocks.0.attn.relative_position_bias_table";
  const auto before = noise({49, 2}, 4);
  from->named_parameters()[name].copy_(before);
  NamedTensors saved;
  for (const auto& item : from->named_parameters())
    saved.emplace_back(item.key(), item.value().detach());
  save_safetensors(file, saved);
  const auto options = replaced(kTiny, "window: 4", "window: 8") + ", init: " + file.string();
  const auto after = make_trunk(kName, options, 64)->named_parameters()[name].view({15, 15, 2});
  // Keys' cubic convolution with a = -0.75 (PyTorch's), borders repeated, at three places.
  const auto kernel = [](double x) {
    x = std::abs(x);
    if (x <= 1) return (1.25 * x - 2.25) * x * x + 1;
    return x < 2 ? -0.75 * (((x - 5) * x + 8) * x - 4) : 0.0;
  };
  for (const auto& [row, column] : {std::pair{7, 7}, {3, 12}, {0, 14}}) {
    const double y = (row + 0.5) * 7 / 15 - 0.5, x = (column + 0.5) * 7 / 15 - 0.5;
    auto expected = torch::zeros({2}, torch::kDouble);
    for (int64_t v = -4; v < 12; ++v)
      for (int64_t u = -4; u < 12; ++u) {
        const int64_t at = std::clamp<int64_t>(v, 0, 6) * 7 + std::clamp<int64_t>(u, 0, 6);
        expected += before[at].to(torch::kDouble) * (kernel(y - v) * kernel(x - u));
      }
    EXPECT_LE(largest_difference(after[row][column].to(torch::kDouble), expected), 1e-6) << row;
  }
  const auto other = replaced(kTiny, "heads: [2, 2, 4]", "heads: [4, 2, 4]");
  expect_error([&] { make_trunk(kName, other + ", init: " + file.string(), 64); },
               {"of another shape", "network [49, 4], file [49, 2]"});
  std::filesystem::remove(file);
}

TEST(Swin, RecomputedBlocksGiveTheSameGradients) {
  const auto kept = make_trunk(kName, std::string(kTiny) + ", drop_path: 0.3", 32);
  const auto again =
      make_trunk(kName, std::string(kTiny) + ", drop_path: 0.3, checkpoint_activations: true", 32);
  const auto x = noise({4, 3, 32, 32}, 3);
  for (auto* network : {kept.get(), again.get()}) {
    const StepScope scope({.seed = 3, .positions = torch::arange(4)});
    score(network->forward(x)).backward();
  }
  const auto expected = kept->named_parameters();
  for (const auto& item : again->named_parameters()) {
    const auto& gradient = expected[item.key()].grad();
    EXPECT_LE((item.value().grad() - gradient).norm().item<double>(),
              1e-4 * gradient.norm().item<double>() + 1e-5)
        << item.key();
  }
}

TEST(Swin, LayersAreItsBlocksInOrder) {
  const auto network = make_trunk(kName, "width: 0.125, condition: stages, embedding: 4", 32);
  EXPECT_EQ(network->layers(), 14);
  const std::map<std::string, int64_t> expected{{"patch_embed.proj.weight", 0},
                                                {"patch_embed.norm.bias", 0},
                                                {"layers.0.blocks.0.norm1.weight", 1},
                                                {"layers.0.blocks.1.attn.qkv.bias", 2},
                                                {"layers.1.downsample.norm.weight", 3},
                                                {"layers.1.blocks.0.mlp.fc1.weight", 3},
                                                {"layers.2.blocks.5.norm2.bias", 10},
                                                {"semantic_embed_w.0.weight", 3},
                                                {"semantic_embed_b.2.bias", 11},
                                                {"semantic_embed_b.3.bias", 13},
                                                {"layers.3.blocks.1.attn.proj.weight", 12},
                                                {"norm.weight", 13},
                                                {"feature.1.weight", 13}};
  for (const auto& [name, layer] : expected) {
    EXPECT_TRUE(network->named_parameters().contains(name)) << name;
    EXPECT_EQ(network->layer_of(name), layer) << name;
  }
}

TEST(Swin, DropsPathsByPositionAndRunsInHalfWidth) {
  expect_drop_path_follows_positions(
      *make_trunk(kName, std::string(kTiny) + ", drop_path: 0.6", 32), noise({6, 3, 32, 32}, 3));
  expect_autocast(*make_trunk(kName, kTiny, 64), noise({4, 3, 64, 64}, 4));
}

TEST(Swin, TakesTheSizesThatItSays) {
  const auto network = make_trunk(kName, std::string(kTiny) + ", any_size: true", 64);
  network->eval();
  EXPECT_EQ(network->forward(noise({2, 3, 40, 24}, 5)).pyramid[2].sizes(),
            torch::IntArrayRef({2, 32, 3, 2}));
  expect_error([&] { network->forward(noise({2, 3, 42, 24}, 5)); }, {"multiples of 4", "42, 24"});
  expect_error([] { make_trunk(kName, "", 30); }, {"model.patch 4 does not divide", "30"});
  expect_error([] { make_trunk(kName, "depths: [2, 2]"); }, {"model.depths [2, 2]", "[3, 6, 12"});
  expect_error([] { make_trunk(kName, "heads: [5, 6, 12, 24]"); }, {"96 channels", "5 heads"});
}

}  // namespace
}  // namespace facetrain
