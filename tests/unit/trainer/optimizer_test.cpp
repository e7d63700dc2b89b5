// Optimizers against PyTorch's own and against the formulas written out; row updates against dense
// ones.
#include "trainer/optimizer.h"

#include <gtest/gtest.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include "tests/support/error_of.h"

namespace facetrain {
namespace {

const auto kDouble = torch::TensorOptions(torch::kDouble);

torch::Tensor wave(int64_t rows, int64_t columns, double phase) {
  return torch::sin(torch::arange(rows * columns, kDouble) * 0.7 + phase).reshape({rows, columns});
}

Parameter parameter(const std::string& name, const torch::Tensor& value) {
  Parameter result;
  result.name = name;
  result.tensor = value.clone().set_requires_grad(true);
  return result;
}

UpdateStep at(double lr, int64_t number) {
  return {lr, number, [](const torch::Tensor&) { return true; }};
}

// Five steps of ours and of a torch::optim optimizer on the same gradients.
template <class Theirs, class TheirOptions>
void expect_same_as_torch(const std::string& yaml, const TheirOptions& their_options, double lr) {
  std::vector<Parameter> ours{parameter("a", wave(3, 4, 0)), parameter("b", wave(5, 1, 1))};
  std::vector<torch::Tensor> theirs;
  for (const auto& p : ours) theirs.push_back(p.tensor.detach().clone().set_requires_grad(true));
  const auto optimizer = Optimizers::get().create(Config::parse(yaml), ours);
  Theirs reference(theirs, their_options);
  for (int64_t step = 1; step <= 5; ++step) {
    for (size_t i = 0; i < ours.size(); ++i) {
      const auto gradient =
          wave(ours[i].tensor.size(0), ours[i].tensor.size(1), static_cast<double>(10 * step));
      ours[i].tensor.mutable_grad() = gradient.clone();
      theirs[i].mutable_grad() = gradient.clone();
    }
    optimizer->step(at(lr, step));
    reference.step();
    for (size_t i = 0; i < ours.size(); ++i)
      EXPECT_LT((ours[i].tensor - theirs[i]).abs().max().item<double>(), 1e-14) << "step " << step;
  }
}

TEST(Sgd, EqualsTorchWithMomentumDecayAndNesterov) {
  expect_same_as_torch<torch::optim::SGD>(
      "{name: sgd, momentum: 0.9, weight_decay: 0.01}",
      torch::optim::SGDOptions(0.1).momentum(0.9).weight_decay(0.01), 0.1);
  expect_same_as_torch<torch::optim::SGD>(
      "{name: sgd, momentum: 0.8, weight_decay: 0, nesterov: true}",
      torch::optim::SGDOptions(0.1).momentum(0.8).nesterov(true), 0.1);
  expect_same_as_torch<torch::optim::SGD>("{name: sgd, momentum: 0, weight_decay: 0.02}",
                                          torch::optim::SGDOptions(0.1).weight_decay(0.02), 0.1);
}

TEST(AdamW, EqualsTorch) {
  expect_same_as_torch<torch::optim::AdamW>(
      "{name: adamw, weight_decay: 0.1}", torch::optim::AdamWOptions(0.01).weight_decay(0.1), 0.01);
}

// A sharded parameter with gradients for two of five rows.
class Rows : public ShardOwner {
 public:
  std::vector<ShardedParameter> sharded() const override { return {{"weight", 0, 5, 5}}; }
  at::Tensor touched_rows(const std::string&) const override { return rows; }
  at::Tensor row_gradient(const std::string&) const override { return gradient; }
  bool update_untouched_rows(const std::string&) const override { return dense; }
  at::Tensor rows, gradient;
  bool dense = false;
};

class RowUpdate : public ::testing::TestWithParam<std::string> {};

TEST_P(RowUpdate, DenseEqualsAFullGradientWithZerosAndSparseLeavesOtherRowsAlone) {
  for (const bool dense : {true, false}) {
    Rows owner;
    owner.dense = dense;
    Parameter sharded = parameter("classifier.weight", wave(5, 3, 2));
    sharded.owner = &owner;
    sharded.shard = {"weight", 0, 5, 5};
    Parameter full = parameter("classifier.weight", wave(5, 3, 2));
    const auto ours = Optimizers::get().create(Config::parse(GetParam()), {sharded});
    const auto reference = Optimizers::get().create(Config::parse(GetParam()), {full});
    const auto before = sharded.tensor.detach().clone();
    std::vector<bool> ever(5, false);
    for (int64_t step = 1; step <= 4; ++step) {
      const std::vector<int64_t> rows{step % 2, 3};
      for (const int64_t row : rows) ever[static_cast<size_t>(row)] = true;
      owner.rows = torch::tensor(rows);
      owner.gradient = wave(2, 3, static_cast<double>(step));
      auto gradient = torch::zeros({5, 3}, kDouble);
      gradient.index_copy_(0, owner.rows, owner.gradient);
      full.tensor.mutable_grad() = gradient;
      ours->step(at(0.1, step));
      reference->step(at(0.1, step));
      if (dense) {
        EXPECT_LT((sharded.tensor - full.tensor).abs().max().item<double>(), 1e-14);
      }
    }
    if (dense) continue;
    for (int64_t row = 0; row < 5; ++row)
      EXPECT_EQ(torch::equal(sharded.tensor[row], before[row]), !ever[static_cast<size_t>(row)])
          << row;
    // Row 3 had a gradient at every step, so the sparse and the dense rule are the same thing for
    // it.
    EXPECT_LT((sharded.tensor[3] - full.tensor[3]).abs().max().item<double>(), 1e-14);
    for (const auto& state : ours->state())
      EXPECT_TRUE((state.tensor[2] == 0).all().item<bool>()) << state.name;
  }
}
INSTANTIATE_TEST_SUITE_P(AllOptimizers, RowUpdate, ::testing::ValuesIn([] {
                           std::vector<std::string> yaml;
                           for (const auto& name : Optimizers::get().names())
                             yaml.push_back("{name: " + name + ", weight_decay: 0.1}");
                           return yaml;
                         }()));

TEST(Optimizer, LeavesParametersThatNoRankReachedAlone) {
  for (const auto& name : Optimizers::get().names()) {
    std::vector<Parameter> ours{parameter("a", wave(2, 2, 0)), parameter("b", wave(2, 2, 1))};
    const auto optimizer = Optimizers::get().create(Config::parse("name: " + name), ours);
    for (auto& p : ours) p.tensor.mutable_grad() = torch::zeros({2, 2}, kDouble);
    const auto before = ours[1].tensor.detach().clone();
    optimizer->step({0.1, 1, [&](const torch::Tensor& t) { return t.is_same(ours[0].tensor); }});
    EXPECT_TRUE(torch::equal(ours[1].tensor, before)) << name;
    EXPECT_FALSE(torch::equal(ours[0].tensor, wave(2, 2, 0)))
        << name << ": weight decay acts on a zero gradient";
  }
}

TEST(Optimizer, GroupsFollowRulesOnNameAndRank) {
  const std::vector<Parameter> parameters{parameter("bn.weight", torch::ones({3}, kDouble)),
                                          parameter("fc.weight", wave(3, 3, 0)),
                                          parameter("head.weight", wave(2, 3, 0))};
  const auto optimizer =
      Optimizers::get().create(Config::parse("{name: sgd, weight_decay: 0.1, no_decay: ['rank<2'], "
                                             "rules: [{match: 'head.*', lr_scale: 10}]}"),
                               parameters);
  ASSERT_EQ(optimizer->groups().size(), 3u);
  EXPECT_EQ(optimizer->groups()[0].weight_decay, 0);
  EXPECT_EQ(optimizer->groups()[0].parameters[0].name, "bn.weight");
  EXPECT_EQ(optimizer->groups()[1].weight_decay, 0.1);
  EXPECT_EQ(optimizer->groups()[2].lr_scale, 10);
  EXPECT_EQ(optimizer->groups()[2].parameters[0].name, "head.weight");
  expect_error(
      [&] {
        Optimizers::get().create(Config::parse("{name: sgd, no_decay: ['*.bais']}"), parameters);
      },
      {"*.bais"});
}

}  // namespace
}  // namespace facetrain
