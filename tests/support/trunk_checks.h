// What the tests of the trunks under timm's names share.
#pragma once

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>

#include <map>
#include <set>
#include <string>

#include "core/step_context.h"
#include "models/backbone.h"
#include "models/init_weights.h"
#include "models/layers.h"

namespace facetrain {

// `options` is the inside of a flow map: "width: 0.25, depths: [1, 1]".
inline std::shared_ptr<Backbone> make_trunk(const std::string& name, const std::string& options,
                                            int64_t size = 0, uint64_t seed = 7) {
  const auto section = Config::parse("{name: " + name + ", " + options + "}");
  return create_backbone(section, {.seed = seed, .image_size = size});
}

inline torch::Tensor noise(torch::IntArrayRef sizes, uint64_t seed,
                           torch::Dtype dtype = torch::kFloat) {
  auto x = torch::empty(sizes, dtype);
  init_uniform(x, seed, "noise", -1, 1);
  return x;
}

inline std::map<std::string, std::vector<int64_t>> shapes_of(torch::nn::Module& network) {
  std::map<std::string, std::vector<int64_t>> shapes;
  for (const auto& item : network.named_parameters())
    shapes[item.key()] = item.value().sizes().vec();
  for (const auto& item : network.named_buffers()) shapes[item.key()] = item.value().sizes().vec();
  return shapes;
}

// Of the parameters among these tensors.
inline int64_t count_parameters(const std::map<std::string, std::vector<int64_t>>& shapes) {
  int64_t count = 0;
  for (const auto& [name, shape] : shapes)
    if (name.find("running_") == name.npos && !name.ends_with("num_batches_tracked"))
      count += c10::multiply_integers(shape);
  return count;
}

inline double largest_difference(const torch::Tensor& a, const torch::Tensor& b) {
  EXPECT_EQ(a.sizes(), b.sizes());
  return (a - b).abs().max().item<double>();
}

// A number that depends on everything a trunk gives, unevenly.
inline torch::Tensor score(const Features& features) {
  auto sum = features.embedding.pow(3).sum() + features.tokens.pow(2).sum();
  for (const auto& map : features.pyramid) sum = sum + (0.1 * map).sin().sum();
  return sum;
}

// In fp64, for each parameter the derivative along a random direction against central differences
// (step 1e-6; 1e-5 of the larger of 1 and the derivative). No parameter may be without effect.
inline void expect_gradients(Backbone& network, const torch::Tensor& images) {
  to_dtype(network, torch::kDouble);
  score(network.forward(images)).backward();
  const torch::NoGradGuard no_grad;
  uint64_t seed = 100;
  for (const auto& item : network.named_parameters()) {
    auto parameter = item.value();
    const auto direction = noise(parameter.sizes(), ++seed, torch::kDouble);
    constexpr double kStep = 1e-6;
    const auto at = [&](double step) {
      parameter.add_(direction, step);
      const double value = score(network.forward(images)).item<double>();
      parameter.sub_(direction, step);
      return value;
    };
    const double expected = (at(kStep) - at(-kStep)) / (2 * kStep);
    const double found = (parameter.grad() * direction).sum().item<double>();
    EXPECT_NEAR(found, expected, 1e-5 * std::max(1.0, std::abs(expected))) << item.key();
    EXPECT_GT(parameter.grad().abs().max().item<double>(), 0) << item.key();
  }
}

// With only its drop paths in training mode a network drops by (seed, position) alone: rows do not
// depend on their company, the step or their order; other positions and seeds draw otherwise.
inline void expect_drop_path_follows_positions(Backbone& network, const torch::Tensor& images) {
  network.eval();
  const auto whole = network.forward(images).embedding;
  for (const auto& module : network.modules())
    if (dynamic_cast<DropPathImpl*>(module.get())) module->train();
  const auto run = [&](const torch::Tensor& rows, uint64_t seed, int64_t step, int64_t first) {
    const StepScope scope({.seed = seed, .step = step, .positions = rows + first});
    return network.forward(images.index_select(0, rows)).embedding;
  };
  const auto all = torch::arange(images.size(0)), some = torch::tensor({2, 0});
  const auto y = run(all, 3, 0, 100);
  EXPECT_TRUE(run(all, 3, 9, 100).equal(y));
  EXPECT_LE(largest_difference(run(some, 3, 0, 100), y.index_select(0, some)), 1e-5);
  EXPECT_GT(largest_difference(run(all, 4, 0, 100), y), 1e-4);
  EXPECT_GT(largest_difference(run(all, 3, 0, 200), y), 1e-4);
  EXPECT_GT(largest_difference(whole, y), 1e-4);
  EXPECT_THROW(network.forward(images), Error);  // training without a step
}

// In bf16 autocast the embedding is fp32, close to the fp32 one, and gradients arrive in fp32.
inline void expect_autocast(Backbone& network, const torch::Tensor& images) {
  const auto exact = network.forward(images).embedding;
  at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const auto half = network.forward(images).embedding;
  at::autocast::set_autocast_enabled(at::kCPU, false);
  at::autocast::clear_cache();
  EXPECT_EQ(half.scalar_type(), torch::kFloat);
  const double cosine = at::cosine_similarity(half, exact).min().item<double>();
  EXPECT_GT(cosine, 0.99);
  EXPECT_LT(cosine, 1 - 1e-8);  // it did run in bf16
  half.square().mean().backward();
  for (const auto& item : network.named_parameters()) {
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    EXPECT_EQ(item.value().grad().scalar_type(), torch::kFloat) << item.key();
    EXPECT_TRUE(item.value().grad().isfinite().all().item<bool>()) << item.key();
  }
}

}  // namespace facetrain
