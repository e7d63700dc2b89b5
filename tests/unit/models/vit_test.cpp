// The vision transformers: public names and shapes, positions, masked encoding, taps, layers, and
// the attention and the checkpointing against their definitions.
#include "models/vit.h"

#include <ATen/autocast_mode.h>
#include <ATen/ops/upsample_bicubic2d.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "core/safetensors.h"
#include "core/step_context.h"
#include "models/attention.h"
#include "models/checkpointed.h"
#include "models/masking.h"
#include "tests/support/error_of.h"

namespace facetrain {
namespace {

using torch::Tensor;

// 16-px images in 4 x 4 patches, width 24, 3 heads.
const std::string kTiny = "width: 0.125\npatch: 4\ndepth: 3\n";

std::shared_ptr<Backbone> any(const std::string& name, const std::string& options, int64_t size) {
  return create_backbone(Config::parse("name: " + name + "\n" + options),
                         {.seed = 5, .image_size = size});
}
std::shared_ptr<Vit> tiny(const std::string& options = "", int64_t size = 16) {
  const auto network =
      std::dynamic_pointer_cast<Vit>(any("vit_tiny_patch16_224", kTiny + options, size));
  to_dtype(*network, torch::kDouble);
  return network;
}

Tensor drawn(torch::IntArrayRef sizes, uint64_t seed) {
  auto x = torch::empty(sizes);
  init_uniform(x, seed, "drawn", -1, 1);
  return x.to(torch::kDouble);
}
double distance(const Tensor& a, const Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}
// Norms and zero biases at their start hide mistakes.
void disturb(torch::nn::Module& network) {
  const torch::NoGradGuard no_grad;
  uint64_t seed = 100;
  for (auto& parameter : network.parameters())
    parameter.add_(0.1 * drawn(parameter.sizes(), ++seed).to(parameter.scalar_type()));
}

std::map<std::string, std::vector<int64_t>> shapes(const torch::nn::Module& network) {
  std::map<std::string, std::vector<int64_t>> all;
  for (const auto& item : network.named_parameters()) all[item.key()] = item.value().sizes().vec();
  for (const auto& item : network.named_buffers()) all[item.key()] = item.value().sizes().vec();
  return all;
}

// reference/ssl_peft_unlearning.md 8.1, with layer scales as DINOv2 has them.
TEST(Vit, HasThePublicNamesAndShapes) {
  const int64_t d = 768;
  std::map<std::string, std::vector<int64_t>> expected{{"cls_token", {1, 1, d}},
                                                       {"pos_embed", {1, 197, d}},
                                                       {"patch_embed.proj.weight", {d, 3, 16, 16}},
                                                       {"patch_embed.proj.bias", {d}},
                                                       {"norm.weight", {d}},
                                                       {"norm.bias", {d}}};
  for (int k = 0; k < 2; ++k) {
    const auto add = [&](const std::string& name, std::vector<int64_t> shape) {
      expected[fmt::format("blocks.{}.{}", k, name)] = std::move(shape);
    };
    for (const char* norm : {"norm1", "norm2"})
      for (const char* part : {".weight", ".bias"}) add(std::string(norm) + part, {d});
    add("attn.qkv.weight", {3 * d, d});
    add("attn.qkv.bias", {3 * d});
    add("attn.proj.weight", {d, d});
    add("attn.proj.bias", {d});
    add("mlp.fc1.weight", {4 * d, d});
    add("mlp.fc1.bias", {4 * d});
    add("mlp.fc2.weight", {d, 4 * d});
    add("mlp.fc2.bias", {d});
  }
  const auto base = any("vit_base_patch16_224", "depth: 2\n", 0);
  EXPECT_EQ(shapes(*base), expected);
  EXPECT_EQ(base->dim(), d);
  EXPECT_EQ(base->image_size(), 224);

  const auto mean = shapes(*tiny("pool: mean\nlayer_scale: 1e-5\nembedding: 8\nqkv_bias: false\n"));
  for (const char* name : {"fc_norm.weight", "blocks.2.ls1.gamma", "blocks.2.ls2.gamma",
                           "feature.0.weight", "feature.1.running_mean"})
    EXPECT_TRUE(mean.contains(name)) << name;
  EXPECT_EQ(mean.at("feature.0.weight"), (std::vector<int64_t>{8, 24}));
  EXPECT_FALSE(mean.contains("norm.weight") || mean.contains("blocks.0.attn.qkv.bias"));
  EXPECT_EQ(tiny("pool: both\n")->dim(), 48);
  const auto clip = shapes(*tiny("pre_norm: true\nactivation: quick_gelu\n"));
  EXPECT_TRUE(clip.contains("norm_pre.weight"));
  EXPECT_FALSE(clip.contains("patch_embed.proj.bias"));
}

// Published (reference/ssl_peft_unlearning.md 2.1: 85.8, 303 and 631 M; recognition.md 3.4: 19.14
// and 113.83 M), counted as one block and as many more: blocks are alike.
TEST(Vit, ParameterCountsAreThePublishedOnes) {
  const auto count = [](const std::string& name, int64_t depth) {
    int64_t all = 0, one = 0;
    const auto network = any(name, "depth: 1\n", 0);
    for (const auto& item : network->named_parameters()) {
      all += item.value().numel();
      if (item.key().starts_with("blocks.0.")) one += item.value().numel();
    }
    return static_cast<double>(all + (depth - 1) * one) / 1e6;
  };
  EXPECT_NEAR(count("vit_base_patch16_224", 12), 85.80, 0.005);
  EXPECT_NEAR(count("vit_large_patch16_224", 24), 303.30, 0.005);
  EXPECT_NEAR(count("vit_huge_patch14_224", 32), 630.76, 0.005);
  EXPECT_NEAR(count("vit_t", 12), 19.14, 0.005);
  EXPECT_NEAR(count("vit_b", 24), 113.83, 0.005);
}

TEST(Positions, SinesAndCosinesAreMaes) {
  const auto table = sincos_positions(8, 2, 2);
  const auto expected =
      torch::tensor({0.0,     0.0,        1.0,     1.0,    0.0,     0.0,        1.0,     1.0,     //
                     .841471, .009999833, .540302, .99995, 0.0,     0.0,        1.0,     1.0,     //
                     0.0,     0.0,        1.0,     1.0,    .841471, .009999833, .540302, .99995,  //
                     .841471, .009999833, .540302, .99995, .841471, .009999833, .540302, .99995})
          .view({4, 8});
  EXPECT_LE(distance(table, expected), 1e-6);
  const auto whole = sincos_positions(768, 14, 14).to(torch::kDouble).abs().sum().item<double>();
  EXPECT_NEAR(whole, 84118.41569, 0.01);  // the figure is of doubles, the table of floats
  const auto oblong = sincos_positions(8, 2, 3);
  EXPECT_TRUE(oblong[5].slice(0, 0, 4).equal(sincos_positions(8, 3, 3)[2].slice(0, 0, 4)));
  expect_error([] { sincos_positions(6, 2, 2); }, {"multiple of 4", "6"});
}

TEST(Positions, InterpolationIsPyTorchsBicubic) {
  for (const auto [from, to] : {std::pair<int64_t, int64_t>{4, 7}, {14, 6}, {5, 5}, {1, 3}}) {
    const auto table = drawn({1, 1 + from * from, 6}, 3);
    const auto found = resize_positions(table, 1, {from, from}, {to, to + 1});
    const auto map = table.slice(1, 1).view({1, from, from, 6}).permute({0, 3, 1, 2});
    const auto wanted = at::upsample_bicubic2d(map, {to, to + 1}, /*align_corners=*/false)
                            .permute({0, 2, 3, 1})
                            .reshape({1, to * (to + 1), 6});
    EXPECT_LE(distance(found.slice(1, 1), wanted), 1e-12) << from << " to " << to;
    EXPECT_TRUE(found.slice(1, 0, 1).equal(table.slice(1, 0, 1)));  // the class token's row
    EXPECT_TRUE(resize_positions(table, 1, {from, from}, {from, from}).is_same(table));
  }
}

TEST(Positions, ALoadedTableOfAnotherGridIsInterpolated) {
  const auto file = std::filesystem::path(testing::TempDir()) / "positions.safetensors";
  const auto small = tiny("", 16);
  disturb(*small);
  NamedTensors tensors;
  for (const auto& item : small->named_parameters())
    tensors.emplace_back(item.key(), item.value().detach().to(torch::kFloat));
  save_safetensors(file, tensors);
  const auto load = [&](int64_t size, const std::string& more = "") {
    return any("vit_tiny_patch16_224", kTiny + more + "init: " + file.string() + "\n", size);
  };
  const auto same = load(16)->named_parameters()["pos_embed"];
  const auto stored = small->named_parameters()["pos_embed"].to(torch::kFloat);
  EXPECT_TRUE(same.equal(stored));
  for (const char* position : {"", "position: sincos\n"}) {
    const auto large = load(24, position)->named_parameters()["pos_embed"];
    EXPECT_LE(distance(large, resize_positions(stored, 1, {4, 4}, {6, 6})), 1e-6);
    EXPECT_EQ(large.requires_grad(), *position == '\0');
  }
  expect_error([&] { any("vit_small_patch16_224", kTiny + "init: " + file.string(), 16); },
               {"of another shape", "network [48], file [24]"});
  std::filesystem::remove(file);
}

// The names of OpenAI's CLIP beside a text tower, and of DINOv2 in chunks (8.1).
TEST(Vit, FilesOfClipAndDinov2AreRead) {
  const auto file = std::filesystem::path(testing::TempDir()) / "other_names.safetensors";
  const std::vector<std::pair<std::string, std::string>> clip{{"cls_token", "class_embedding"},
                                                              {"pos_embed", "positional_embedding"},
                                                              {"patch_embed.proj.", "conv1."},
                                                              {"norm_pre.", "ln_pre."},
                                                              {"attn.qkv.", "attn.in_proj_"},
                                                              {"attn.proj.", "attn.out_proj."},
                                                              {"mlp.fc1.", "mlp.c_fc."},
                                                              {"mlp.fc2.", "mlp.c_proj."},
                                                              {"norm1.", "ln_1."},
                                                              {"norm2.", "ln_2."},
                                                              {"blocks.", "transformer.resblocks."},
                                                              {"norm.", "ln_post."}};
  const auto theirs = [&](std::string name) {
    for (const auto& [ours, other] : clip)
      if (const auto at = name.find(ours); at != name.npos) name.replace(at, ours.size(), other);
    return "visual." + name;
  };
  for (const bool is_clip : {true, false}) {
    const std::string options = kTiny + (is_clip ? "pre_norm: true\n" : "layer_scale: 0.1\n");
    const auto from = any("vit_tiny_patch16_224", options, 16);
    disturb(*from);
    NamedTensors tensors{{"visual.proj", torch::ones({24, 4})},
                         {"transformer.resblocks.0.ln_1.weight", torch::ones({8})},
                         {"positional_embedding", torch::ones({77, 8})}};
    if (!is_clip) tensors = {{"mask_token", torch::ones({1, 24})}};
    for (const auto& item : from->named_parameters()) {
      auto name = is_clip ? theirs(item.key()) : item.key();
      if (!is_clip && name.starts_with("blocks.")) name.replace(0, 7, "blocks.0.");
      auto value = item.value().detach();
      if (is_clip && item.key() == "cls_token") value = value.flatten();
      if (is_clip && item.key() == "pos_embed") value = value[0];
      tensors.emplace_back(name, value);
    }
    save_safetensors(file, tensors);
    const auto to = any("vit_tiny_patch16_224", options + "init: " + file.string(), 16);
    for (const auto& item : from->named_parameters())
      EXPECT_TRUE(item.value().equal(to->named_parameters()[item.key()])) << item.key();
  }
  std::filesystem::remove(file);
}

TEST(Vit, NothingMaskedIsTheWhole) {
  const auto network = tiny();
  disturb(*network);
  const auto images = drawn({3, 3, 16, 16}, 1);
  const auto whole = network->encode(images);
  ASSERT_EQ(whole.sizes(), torch::IntArrayRef({3, 17, 24}));
  const auto features = network->forward(images);
  EXPECT_TRUE(features.tokens.equal(whole));
  EXPECT_TRUE(features.embedding.equal(whole.select(1, 0)));
  const auto all = torch::arange(16).expand({3, 16});
  EXPECT_LE(distance(network->encode(images, all), whole), 1e-12);
  EXPECT_TRUE(network->encode(network->embed(images)).equal(whole));
  EXPECT_EQ(network->grid(), (Grid{4, 4}));
  EXPECT_EQ(network->width(), 24);
}

TEST(Vit, TheOrderOfKeptTokensOnlyOrdersTheResult) {
  const auto network = tiny("layer_scale: 0.1\nposition: sincos\n");
  disturb(*network);
  const auto images = drawn({2, 3, 16, 16}, 2);
  const auto kept = torch::tensor({3, 0, 9, 14, 7, 7, 2, 15, 1, 4}).view({2, 5});
  const auto order = torch::tensor({4, 2, 0, 1, 3});
  const auto found = network->encode(images, kept);
  ASSERT_EQ(found.sizes(), torch::IntArrayRef({2, 6, 24}));
  const auto turned = network->encode(images, kept.index_select(1, order));
  EXPECT_LE(distance(turned.select(1, 0), found.select(1, 0)), 1e-12);
  EXPECT_LE(distance(turned.slice(1, 1), found.slice(1, 1).index_select(1, order)), 1e-12);
  // Removed patches are not seen: their pixels may be anything.
  auto changed = images.clone();
  changed[0].slice(1, 4, 8).slice(2, 8, 12).fill_(9);  // patch 6, kept in neither
  EXPECT_TRUE(network->encode(changed, kept).equal(found));
  EXPECT_GT(distance(network->encode(changed), network->encode(images)), 1e-3);
  expect_error([&] { network->encode(images, kept.to(torch::kInt)); }, {"int64", "[2, 5]"});
  expect_error([&] { network->encode(images, kept.narrow(1, 0, 0)); }, {"K >= 1"});
}

TEST(Vit, TheMaskTokenStandsForMaskedPatchesWithTheirPositions) {
  const auto network = tiny();
  disturb(*network);
  const auto images = drawn({2, 3, 16, 16}, 3), token = drawn({24}, 4);
  const auto masked = drawn({2, 16}, 5) > 0.2;
  const auto plain = network->embed(images), found = network->embed(images, masked, token);
  const auto positions = network->named_parameters()["pos_embed"].slice(1, 1);
  const auto wanted = at::where(masked.unsqueeze(2), token + positions, plain);
  EXPECT_LE(distance(found, wanted), 1e-12);
  expect_error([&] { network->embed(images, masked.narrow(1, 0, 9), token); },
               {"wanted a mask of bool [2, 16]", "[2, 9]"});
}

TEST(Vit, ImagesOfOtherSizesGetInterpolatedPositions) {
  const auto network = tiny();
  disturb(*network);
  const auto crop = drawn({2, 3, 8, 12}, 6);
  EXPECT_EQ(network->encode(crop).sizes(), torch::IntArrayRef({2, 7, 24}));
  const auto pos_embed = network->named_parameters()["pos_embed"];
  const auto positions = resize_positions(pos_embed, 1, {4, 4}, {2, 3});
  const auto at_zero = network->embed(torch::zeros_like(crop));
  const auto bias = network->named_parameters()["patch_embed.proj.bias"];
  EXPECT_LE(distance(at_zero[1], (positions + bias)[0].slice(0, 1)), 1e-12);
  expect_error([&] { network->forward(crop); }, {"[B, 3, 16, 16]", "[2, 3, 8, 12]"});
  EXPECT_EQ(tiny("any_size: true\n")->forward(crop).embedding.sizes(), torch::IntArrayRef({2, 24}));
  expect_error([&] { network->encode(drawn({2, 3, 8, 10}, 6)); }, {"multiples of its patch, 4"});
  expect_error([] { tiny("", 18); }, {"model.patch 4 does not divide images of 18 pixels"});
  expect_error([] { tiny("image_size: 20\n", 16); }, {"model.image_size is 20", "data.size is 16"});
  expect_error([] { tiny("heads: 5\n"); }, {"width 24", "5 heads", "model.heads"});
  EXPECT_EQ(tiny("image_size: 20\n", 0)->image_size(), 20);
}

TEST(Vit, PoolsAsTimmDoes) {
  const auto images = drawn({2, 3, 16, 16}, 7);
  const auto mean = tiny("pool: mean\n"), both = tiny("pool: both\n");
  disturb(*mean);
  const auto tokens = mean->forward(images).tokens;  // no norm behind the blocks
  const auto norm = mean->named_parameters();
  const auto wanted = at::layer_norm(tokens.slice(1, 1).mean(1), {24}, norm["fc_norm.weight"],
                                     norm["fc_norm.bias"], 1e-6);
  EXPECT_LE(distance(mean->forward(images).embedding, wanted), 1e-12);
  const auto features = both->forward(images);
  const auto parts =
      torch::cat({features.tokens.select(1, 0), features.tokens.slice(1, 1).mean(1)}, 1);
  EXPECT_LE(distance(features.embedding, parts), 1e-12);
}

// softmax(q kᵀ / √d) v for every head by itself, in loops over heads.
TEST(Attention, FusedAndExplicitAreTheDefinition) {
  Attention attention(24, 3, /*qkv_bias=*/true);
  to_dtype(*attention, torch::kDouble);
  disturb(*attention);
  const auto x = drawn({2, 5, 24}, 8);
  const auto weights = attention->named_parameters();
  const auto qkv = at::linear(x, weights["qkv.weight"], weights["qkv.bias"]);
  std::vector<Tensor> heads, maps;
  for (int64_t h = 0; h < 3; ++h) {
    const auto q = qkv.narrow(2, 8 * h, 8), k = qkv.narrow(2, 24 + 8 * h, 8);
    maps.push_back(at::softmax(q.matmul(k.transpose(1, 2)) / std::sqrt(8.0), 2));
    heads.push_back(maps.back().matmul(qkv.narrow(2, 48 + 8 * h, 8)));
  }
  const auto wanted =
      at::linear(torch::cat(heads, 2), weights["proj.weight"], weights["proj.bias"]);
  Tensor map;
  EXPECT_LE(distance(attention(x), wanted), 1e-12);
  EXPECT_LE(distance(attention(x, &map), wanted), 1e-12);
  EXPECT_LE(distance(map, torch::stack(maps, 1)), 1e-12);
  to_dtype(*attention, torch::kFloat);
  const auto single = x.to(torch::kFloat);
  EXPECT_LE(distance(attention(single), attention(single, &map)), 1e-6);
}

TEST(Vit, TapsComeByNameAndChangeNothing) {
  const auto network = tiny();
  disturb(*network);
  const auto images = drawn({2, 3, 16, 16}, 9);
  const auto plain = network->forward(images);
  EXPECT_TRUE(plain.taps.empty());
  const std::set<std::string> offered{"blocks.0",    "blocks.1",    "blocks.2",
                                      "attention.0", "attention.1", "attention.2"};
  const auto names = network->taps();
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), offered);
  network->ask_for({"blocks.0", "blocks.2", "attention.1"});
  const auto asked = network->forward(images);
  ASSERT_EQ(asked.taps.size(), 3u);
  EXPECT_LE(distance(asked.embedding, plain.embedding), 1e-12);
  EXPECT_EQ(asked.taps.at("blocks.0").sizes(), torch::IntArrayRef({2, 17, 24}));
  const auto norm = network->named_parameters();
  EXPECT_TRUE(
      at::layer_norm(asked.taps.at("blocks.2"), {24}, norm["norm.weight"], norm["norm.bias"], 1e-6)
          .equal(asked.tokens));
  const auto& map = asked.taps.at("attention.1");
  ASSERT_EQ(map.sizes(), torch::IntArrayRef({2, 3, 17, 17}));
  EXPECT_LE(distance(map.sum(3), torch::ones({2, 3, 17}, torch::kDouble)), 1e-12);
  EXPECT_GT(map.std(3).min().item<double>(), 1e-4);  // attends to something
  network->ask_for({});
  EXPECT_TRUE(network->forward(images).taps.empty());
  expect_error([&] { network->ask_for({"blocks.3"}); }, {"'blocks.3'", "known: blocks.0"});
  const auto face = any("vit_t", kTiny + "mask: 0\ndrop_path: 0\n", 16);
  face->ask_for({"attention.1"});
  EXPECT_EQ(face->forward(images.to(torch::kFloat)).taps.at("attention.1").sizes(),
            torch::IntArrayRef({2, 8, 16, 16}));
}

// §2.1: n = depth + 1; class token, position, patch embedding 0; blocks.k k + 1; the rest n.
TEST(Vit, LayersAreThoseOfMaesFineTuning) {
  const auto network = tiny("embedding: 8\npre_norm: true\n");
  EXPECT_EQ(network->layers(), 5);
  const std::map<std::string, int64_t> expected{
      {"cls_token", 0},     {"pos_embed", 0},           {"patch_embed.proj.weight", 0},
      {"norm_pre.bias", 0}, {"blocks.0.norm1.bias", 1}, {"blocks.2.mlp.fc2.weight", 3},
      {"norm.weight", 4},   {"feature.0.weight", 4},    {"fc_norm.bias", 4}};
  for (const auto& [name, layer] : expected) EXPECT_EQ(network->layer_of(name), layer) << name;
  const auto large = any("vit_tiny_patch16_224", "width: 0.125\ndepth: 13\npatch: 4\n", 16);
  EXPECT_EQ(large->layer_of("blocks.11.attn.qkv.bias"), 12);
  EXPECT_EQ(any("iresnet18", "width: 0.125\n", 32)->layers(), 1);
}

TEST(Vit, GradientsAreThoseOfDifferences) {
  const auto network = tiny("layer_scale: 0.3\nembedding: 4\n");
  disturb(*network);
  const auto images = drawn({4, 3, 8, 12}, 10), weight = drawn({4, 4}, 11);
  const auto kept = torch::tensor({0, 3, 5, 1, 4, 2, 3, 5, 5, 0, 1, 2}).view({4, 3});
  const auto loss = [&] { return (network->pool(network->encode(images, kept)) * weight).sum(); };
  loss().backward();
  const torch::NoGradGuard no_grad;
  for (const auto& item : network->named_parameters()) {
    const auto gradient = item.value().grad();
    ASSERT_TRUE(gradient.defined()) << item.key();
    const auto direction = drawn(item.value().sizes(), 12);
    constexpr double kStep = 1e-6;
    auto values = item.value().data();
    values.add_(kStep * direction);
    const double above = loss().item<double>();
    values.sub_(2 * kStep * direction);
    const double below = loss().item<double>();
    values.add_(kStep * direction);
    const double wanted = (above - below) / (2 * kStep);
    EXPECT_NEAR((gradient * direction).sum().item<double>(), wanted,
                1e-6 * std::max(1.0, std::abs(wanted)))
        << item.key();
  }
}

TEST(Vit, DropPathIsOfTheSampleAndRisesBlockByBlock) {
  const auto network = tiny("drop_path: 0.6\n");
  const auto images = drawn({6, 3, 16, 16}, 13);
  const auto run = [&](const Tensor& rows, int64_t step) {
    const StepScope scope({.seed = 3, .step = step, .positions = rows + 40});
    return network->encode(images.index_select(0, rows));
  };
  const auto all = torch::arange(6), some = torch::tensor({4, 1});
  const auto whole = run(all, 0);
  EXPECT_TRUE(run(all, 7).equal(whole));  // of the position, not of the step
  EXPECT_LE(distance(run(some, 1), whole.index_select(0, some)), 1e-12);
  EXPECT_THROW(network->encode(images), Error);  // training without a step
  network->eval();
  EXPECT_GT(distance(network->encode(images), whole), 1e-3);
  EXPECT_EQ(drop_path_at(0.6, 0, 3), 0);
  EXPECT_NEAR(drop_path_at(0.6, 1, 3), 0.3, 1e-15);
  EXPECT_NEAR(drop_path_at(0.6, 2, 3), 0.6, 1e-15);
}

std::map<std::string, Tensor> gradients(Vit& network, const Tensor& images, bool autocast) {
  for (auto& parameter : network.parameters()) parameter.mutable_grad() = Tensor();
  Tensor loss;
  {
    const StepScope scope({.seed = 3, .positions = torch::arange(images.size(0))});
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
    at::autocast::set_autocast_enabled(at::kCPU, autocast);
    loss = network.forward(images).embedding.square().sum();
    at::autocast::set_autocast_enabled(at::kCPU, false);
    at::autocast::clear_cache();
  }
  loss.backward();  // outside of the step and of autocast, as the trainer's
  std::map<std::string, Tensor> all;
  for (const auto& item : network.named_parameters()) all[item.key()] = item.value().grad();
  return all;
}

TEST(Vit, CheckpointingChangesNoBit) {
  const std::string options = "drop_path: 0.5\nembedding: 6\n";
  for (const bool autocast : {false, true}) {
    const auto plain = tiny(options), saving = tiny(options + "checkpoint_activations: true\n");
    if (autocast) to_dtype(*plain, torch::kFloat), to_dtype(*saving, torch::kFloat);
    const auto type = autocast ? torch::kFloat : torch::kDouble;
    const auto images = drawn({5, 3, 16, 16}, 14).to(type);
    const auto wanted = gradients(*plain, images, autocast);
    const auto found = gradients(*saving, images, autocast);
    for (const auto& [name, gradient] : wanted) {
      ASSERT_TRUE(found.at(name).defined()) << name;
      EXPECT_TRUE(gradient.equal(found.at(name))) << name;
    }
  }
}

TEST(Checkpointed, ParametersLearnWhereTheInputDoesNot) {
  const auto weight = torch::full({2}, 3.0).requires_grad_(true);
  int runs = 0;
  const auto square = [&](const Tensor& x) {
    ++runs;
    return (x * weight).square();
  };
  const auto x = torch::tensor({1.0F, 2.0F});
  checkpointed(square, x).sum().backward();
  EXPECT_EQ(runs, 2);
  EXPECT_TRUE(weight.grad().equal(torch::tensor({6.0F, 24.0F})));
  const torch::NoGradGuard no_grad;
  EXPECT_TRUE(checkpointed(square, x).equal(torch::tensor({9.0F, 36.0F})));
  EXPECT_EQ(runs, 3);
}

TEST(Vit, AutocastKeepsTheResidualsWide) {
  const auto network = tiny("embedding: 6\n");
  to_dtype(*network, torch::kFloat);
  network->eval();
  const auto images = drawn({4, 3, 16, 16}, 15).to(torch::kFloat);
  const auto exact = network->forward(images);
  network->ask_for({"blocks.1"});
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const auto half = network->forward(images);
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(half.taps.at("blocks.1").scalar_type(), torch::kFloat);
  EXPECT_EQ(half.embedding.scalar_type(), torch::kFloat);
  const double cosine = at::cosine_similarity(half.embedding, exact.embedding).min().item<double>();
  EXPECT_GT(cosine, 0.999);
  EXPECT_LT(cosine, 1 - 1e-9);  // it did run in bf16
}

// timm: Linear truncated normal 0.02, class token nearly 0. MAE: Xavier, class token N(0, 0.02).
TEST(Vit, InitialisationIsTheSchemes) {
  const std::string size = "depth: 1\n";
  const auto timm = any("vit_small_patch16_224", size, 112)->named_parameters();
  const auto mae = any("vit_small_patch16_224", size + "init_scheme: mae\nposition: sincos\n", 112)
                       ->named_parameters();
  const auto deviation = [](const Tensor& x) { return x.std().item<double>(); };
  EXPECT_NEAR(deviation(timm["blocks.0.attn.qkv.weight"]), 0.02, 2e-4);
  EXPECT_NEAR(deviation(timm["pos_embed"]), 0.02, 5e-4);
  EXPECT_LT(timm["cls_token"].abs().max().item<double>(), 1e-5);
  EXPECT_GT(timm["cls_token"].abs().max().item<double>(), 1e-7);
  const auto bound = [](double in, double out) { return std::sqrt(6 / (in + out)); };
  const auto largest = [](const Tensor& x) { return x.abs().max().item<double>(); };
  EXPECT_NEAR(largest(timm["patch_embed.proj.weight"]), 1 / std::sqrt(768.0), 1e-4);
  EXPECT_NEAR(largest(mae["patch_embed.proj.weight"]), bound(768, 384), 1e-4);
  EXPECT_NEAR(largest(mae["blocks.0.attn.qkv.weight"]), bound(384, 3 * 384), 1e-4);
  EXPECT_NEAR(largest(mae["blocks.0.mlp.fc2.weight"]), bound(4 * 384, 384), 1e-4);
  EXPECT_NEAR(deviation(mae["cls_token"]), 0.02, 3e-3);
  EXPECT_EQ(largest(mae["pos_embed"].select(1, 0)), 0);
  EXPECT_TRUE(mae["pos_embed"][0].slice(0, 1).equal(sincos_positions(384, 7, 7)));
  EXPECT_FALSE(mae["pos_embed"].requires_grad());
  EXPECT_EQ(tiny("position: sincos\n")->frozen(), std::vector<std::string>{"pos_embed"});
  EXPECT_TRUE(tiny()->frozen().empty());
}

// Masked in training only: what is kept runs the blocks, the mask token stands for the rest.
TEST(FaceVit, MasksInTrainingAndLearnsItsToken) {
  const auto network = any("vit_t", kTiny + "mask: 0.5\ndrop_path: 0\nembedding: 6\n", 16);
  disturb(*network);
  const auto images = drawn({4, 3, 16, 16}, 16).to(torch::kFloat);
  const StepScope scope({.seed = 2, .positions = torch::arange(4)});
  const auto tokens = network->forward(images).tokens;
  const auto token = network->named_parameters()["mask_token"].squeeze();
  const auto masked = (tokens == token).all(2);
  EXPECT_TRUE(masked.sum(1).equal(torch::full({4}, 8)));
  EXPECT_FALSE(masked[0].equal(masked[1]));
  EXPECT_TRUE(masked.equal(random_mask(16, 0.5, "mask").removed));
  network->forward(images).embedding.pow(3).sum().backward();
  EXPECT_GT(network->named_parameters()["mask_token"].grad().norm().item<double>(), 0);
  network->eval();
  EXPECT_FALSE((network->forward(images).tokens == token).all(2).any().item<bool>());
  const auto without = any("vit_t_dp005_mask0", kTiny, 16);
  EXPECT_FALSE(without->named_parameters()["mask_token"].requires_grad());
  EXPECT_EQ(dynamic_cast<FreezePolicy&>(*without).frozen(), std::vector<std::string>{"mask_token"});
  EXPECT_EQ(without->layer_of("mask_token"), 0);
  EXPECT_EQ(without->layer_of("feature.2.weight"), 4);
}

}  // namespace
}  // namespace facetrain
