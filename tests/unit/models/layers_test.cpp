// The shared blocks, each against the plain formula.
#include "models/layers.h"

#include <gtest/gtest.h>

#include "core/check.h"
#include "core/step_context.h"
#include "models/init_weights.h"

namespace facetrain {
namespace {

using torch::Tensor;

Tensor random(torch::IntArrayRef sizes, const std::string& name) {
  auto x = torch::empty(sizes, torch::kDouble);
  init_uniform(x, 5, name, -1, 1);
  return x;
}

void expect_near(const Tensor& a, const Tensor& b, double tolerance) {
  ASSERT_EQ(a.sizes(), b.sizes());
  EXPECT_LE((a - b).abs().max().item<double>(), tolerance);
}

TEST(Layers, LinearIsItsFormula) {
  Linear linear(5, 3);
  to_dtype(*linear, torch::kDouble);
  const torch::NoGradGuard no_grad;
  linear->weight.copy_(random({3, 5}, "w"));
  linear->bias.copy_(random({3}, "b"));
  const auto x = random({4, 5}, "x");
  expect_near(linear(x), x.matmul(linear->weight.t()) + linear->bias, 1e-14);
  EXPECT_EQ(Linear(5, 3, false)->parameters().size(), 1u);
}

// Few input channels and fp32 channels_last are what crashes torch 2.11 without slicing.
TEST(Layers, StridedPointConvolutionEqualsTheLibrarysInNchw) {
  for (const int64_t channels : {4, 8, 9})
    for (const int64_t side : {6, 7})
      for (const auto format : {at::MemoryFormat::Contiguous, at::MemoryFormat::ChannelsLast}) {
        Conv2d conv(ConvOptions{channels, 5, 1, 2});
        auto reference = random({5, channels, 1, 1}, "w").to(torch::kFloat).requires_grad_();
        conv->weight.set_data(reference.detach().clone());
        if (format == at::MemoryFormat::ChannelsLast) to_channels_last(*conv);
        auto theirs = random({3, channels, side, side}, "x").to(torch::kFloat).requires_grad_();
        auto ours = theirs.detach().contiguous(format).clone().requires_grad_();
        const auto y = conv(ours);
        const auto z = at::conv2d(theirs, reference, {}, {2, 2});
        expect_near(y, z, 1e-5);
        y.square().sum().backward();
        z.square().sum().backward();
        expect_near(ours.grad(), theirs.grad(), 1e-5);
        expect_near(conv->weight.grad(), reference.grad(), 1e-4);
        EXPECT_TRUE(ours.grad().is_contiguous(format));
      }
}

TEST(Layers, ConvolutionTakesStridePaddingAndGroups) {
  Conv2d conv(ConvOptions{6, 9, 3, 2, 1, 3, true});
  to_dtype(*conv, torch::kDouble);
  const torch::NoGradGuard no_grad;
  conv->weight.copy_(random({9, 2, 3, 3}, "w"));
  conv->bias.copy_(random({9}, "b"));
  const auto x = random({2, 6, 5, 5}, "x");
  // Output 0, top left: group 0 sees channels 0 and 1 and the window that begins one row and column
  // outside.
  const auto window = x[0].slice(0, 0, 2).slice(1, 0, 2).slice(2, 0, 2);
  const auto part = conv->weight[0].slice(1, 1, 3).slice(2, 1, 3);
  const auto y = conv(x);
  ASSERT_EQ(y.sizes(), torch::IntArrayRef({2, 9, 3, 3}));
  expect_near(y[0][0][0][0], (window * part).sum() + conv->bias[0], 1e-14);
}

TEST(Layers, PReluHasOneSlopeAChannel) {
  PRelu prelu(2);
  EXPECT_TRUE(prelu->weight.equal(torch::full({2}, 0.25)));
  prelu->weight.set_data(torch::tensor({0.5, 2.0}));
  const auto y = prelu(torch::tensor({{-1.0, -1.0}, {3.0, 4.0}}).to(torch::kFloat));
  EXPECT_TRUE(y.equal(torch::tensor({{-0.5, -2.0}, {3.0, 4.0}}).to(torch::kFloat)));
}

TEST(Layers, DropoutKeepsTheExpectationAndFollowsPositions) {
  Dropout dropout(0.25, "fc.dropout"), other(0.25, "other");
  const auto x = torch::ones({64, 10, 10});
  const auto positions = torch::arange(1000, 1064);
  const auto draw = [&](Dropout& layer, const Tensor& rows, uint64_t seed, int64_t view) {
    const StepScope scope({.seed = seed, .view = view, .positions = rows});
    return layer(x.narrow(0, 0, rows.size(0)));
  };
  const auto y = draw(dropout, positions, 1, 0);
  const auto kept = y.ne(0);
  EXPECT_NEAR(kept.to(torch::kDouble).mean().item<double>(), 0.75, 0.02);  // 4 deviations: 0.022
  EXPECT_TRUE(at::allclose(y.masked_select(kept), torch::full({1}, 4.0 / 3)));
  EXPECT_TRUE(draw(dropout, positions.narrow(0, 5, 9), 1, 0).equal(y.narrow(0, 5, 9)));
  EXPECT_FALSE(draw(dropout, positions, 2, 0).equal(y));
  EXPECT_FALSE(draw(dropout, positions, 1, 1).equal(y));
  EXPECT_FALSE(draw(other, positions, 1, 0).equal(y));
  EXPECT_THROW(dropout(x), Error);
  {
    const StepScope scope({.positions = positions.narrow(0, 0, 3)});
    EXPECT_THROW(dropout(x), Error);
  }
  dropout->eval();
  EXPECT_TRUE(dropout(x).equal(x));
  EXPECT_THROW(Dropout(1.0, "all"), Error);
}

TEST(Layers, DropPathDropsWholeSamples) {
  DropPath path(0.5, "block.path");
  const auto x = torch::ones({2000, 2, 3});
  const StepScope scope({.seed = 4, .positions = torch::arange(2000)});
  const auto rows = path(x).flatten(1);
  EXPECT_TRUE(rows.amin(1).equal(rows.amax(1)));
  EXPECT_NEAR(rows.mean().item<double>(), 1,
              0.09);  // 4 deviations of 2 · Bernoulli(0.5) over 2000 rows
  EXPECT_THROW(DropPath(-0.1, "none"), Error);
}

TEST(Init, DrawsTheStatedDistributionWhateverTheLayout) {
  auto plain = torch::empty({40, 30, 5, 5}), last = plain.clone(at::MemoryFormat::ChannelsLast);
  init_normal(plain, 1, "conv.weight", 0.5, 0.1);
  init_normal(last, 1, "conv.weight", 0.5, 0.1);
  EXPECT_TRUE(plain.equal(last));
  EXPECT_NEAR(plain.mean().item<double>(), 0.5, 4 * 0.1 / std::sqrt(30000.0));
  EXPECT_NEAR(plain.std().item<double>(), 0.1, 4 * 0.1 / std::sqrt(60000.0));
  const auto z = (plain.to(torch::kDouble) - 0.5) / 0.1;
  EXPECT_NEAR(z.pow(4).mean().item<double>(), 3, 0.25);
  EXPECT_NEAR(z.abs().lt(1).to(torch::kDouble).mean().item<double>(), 0.6827, 0.012);
  auto wide = torch::empty({40, 30, 5, 5}, torch::kDouble);
  init_normal(wide, 1, "conv.weight", 0.5, 0.1);
  EXPECT_TRUE(wide.equal(plain.to(torch::kDouble)));
  auto odd = torch::empty({7});
  init_normal(odd, 1, "conv.weight", 0.5, 0.1);
  EXPECT_TRUE(odd.equal(plain.flatten().narrow(0, 0, 7)));
  auto uniform = torch::empty({30000});
  init_uniform(uniform, 1, "fc.weight", -2, 6);
  EXPECT_NEAR(uniform.mean().item<double>(), 2, 0.06);
  EXPECT_GE(uniform.min().item<double>(), -2);
  EXPECT_LE(uniform.max().item<double>(), 6);
  EXPECT_NEAR(uniform.std().item<double>(), 8 / std::sqrt(12.0), 0.03);
}

}  // namespace
}  // namespace facetrain
