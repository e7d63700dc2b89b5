// Optimizers against PyTorch's own and against the formulas written out; row updates against dense
// ones; groups by rules, late starts, decays that change.
#include "trainer/optimizer.h"

#include <gtest/gtest.h>
#include <torch/optim/adamw.h>
#include <torch/optim/sgd.h>

#include <cmath>

#include "comm/collectives.h"
#include "comm/thread_comm.h"
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

UpdateStep at_step(double lr, int64_t step, double steps_per_epoch = 10) {
  return {lr, step + 1, [](const torch::Tensor&) { return true; }, {step, 100, steps_per_epoch}};
}

double value_at(const torch::Tensor& tensor, int64_t i) {
  return tensor.reshape(-1)[i].item<double>();
}

// MAE's own class, two steps: reference/ssl_peft_unlearning.md section 12.
TEST(Lars, GivesTheGoldenNumbersOfMae) {
  std::vector<Parameter> ours{
      parameter("w", torch::tensor({1.0, 2.0, 2.0, 4.0}, kDouble).reshape({2, 2})),
      parameter("b", torch::tensor({1.0, -1.0}, kDouble))};
  const auto optimizer =
      Optimizers::get().create(Config::parse("{name: lars, weight_decay: 0.01}"), ours);
  const double weights[2][4] = {{.99970418, 1.99959922, 1.99998093, 3.99996185},
                                {.99914211, 1.99883771, 1.99994469, 3.99988937}};
  const double biases[2][2] = {{.95, -1.05}, {.855, -1.145}};
  for (int64_t step = 0; step < 2; ++step) {
    ours[0].tensor.mutable_grad() = torch::tensor({0.3, 0.4, 0.0, 0.0}, kDouble).reshape({2, 2});
    ours[1].tensor.mutable_grad() = torch::full({2}, 0.5, kDouble);
    optimizer->step(at(0.1, step + 1));
    // Theirs ran in single precision, whose steps near 4 are 2.4e-7.
    for (int64_t i = 0; i < 4; ++i)
      EXPECT_NEAR(value_at(ours[0].tensor, i), weights[step][i], 1.2e-7) << step << ' ' << i;
    for (int64_t i = 0; i < 2; ++i)
      EXPECT_NEAR(value_at(ours[1].tensor, i), biases[step][i], 1e-12) << step << ' ' << i;
  }
}

double norm_of(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v * v;
  return std::sqrt(sum);
}

// One tensor under LARS or LARC, number by number.
struct TrustRatioByHand {
  std::vector<double> weight, momentum;
  void step(std::vector<double> gradient, bool larc, bool one_dimensional, double lr) {
    const double decay = 0.02, trust = 0.001;
    if (larc) {
      const double p = norm_of(weight), g = norm_of(gradient);
      const double ratio = trust * p / (g + decay * p + 1e-8);
      if (p > 0 && g > 0)
        for (size_t i = 0; i < weight.size(); ++i)
          gradient[i] = ratio * (gradient[i] + decay * weight[i]);
    } else if (!one_dimensional) {
      for (size_t i = 0; i < weight.size(); ++i) gradient[i] += decay * weight[i];
      const double p = norm_of(weight), g = norm_of(gradient);
      if (p > 0 && g > 0)
        for (double& value : gradient) value *= trust * p / g;
    }
    for (size_t i = 0; i < weight.size(); ++i) {
      momentum[i] = 0.9 * momentum[i] + gradient[i];
      weight[i] -= lr * momentum[i];
    }
  }
};

std::vector<double> numbers(const torch::Tensor& tensor) {
  const auto flat = tensor.detach().contiguous();
  return {flat.const_data_ptr<double>(), flat.const_data_ptr<double>() + flat.numel()};
}

TEST(TrustRatio, EqualsTheFormulasNumberByNumber) {
  for (const bool larc : {false, true}) {
    // The third starts at zero, the fourth never has a gradient other than zero.
    std::vector<Parameter> ours{parameter("a", wave(3, 4, 0)), parameter("b", wave(1, 5, 1)[0]),
                                parameter("zero", torch::zeros({2, 3}, kDouble)),
                                parameter("still", wave(2, 2, 2))};
    std::vector<TrustRatioByHand> by_hand;
    for (const auto& p : ours) {
      by_hand.push_back({numbers(p.tensor), {}});
      by_hand.back().momentum.assign(by_hand.back().weight.size(), 0);
    }
    const auto optimizer = Optimizers::get().create(
        Config::parse(fmt::format("{{name: {}, weight_decay: 0.02}}", larc ? "larc" : "lars")),
        ours);
    for (int64_t step = 1; step <= 6; ++step) {
      for (size_t i = 0; i < ours.size(); ++i) {
        auto gradient = wave(1, ours[i].tensor.numel(), static_cast<double>(10 * step))
                            .reshape(ours[i].tensor.sizes());
        if (i == 3) gradient.zero_();
        by_hand[i].step(numbers(gradient), larc, ours[i].tensor.dim() < 2, 0.5);
        ours[i].tensor.mutable_grad() = gradient;
      }
      optimizer->step(at(0.5, step));
      for (size_t i = 0; i < ours.size(); ++i)
        for (int64_t j = 0; j < ours[i].tensor.numel(); ++j)
          EXPECT_NEAR(value_at(ours[i].tensor, j), by_hand[i].weight[static_cast<size_t>(j)], 1e-14)
              << (larc ? "larc " : "lars ") << ours[i].name << " step " << step;
    }
    EXPECT_EQ(torch::equal(ours[3].tensor, wave(2, 2, 2)), larc) << "decay on a zero gradient";
  }
}

TEST(TrustRatio, LarsExcludesByNameToo) {
  std::vector<Parameter> ours{parameter("bn.weight", wave(1, 3, 0)[0]),
                              parameter("norm.weight", wave(1, 3, 0)[0])};
  const auto optimizer = Optimizers::get().create(
      Config::parse("{name: lars, weight_decay: 0.1, exclude: ['bn.*']}"), ours);
  ASSERT_EQ(optimizer->groups().size(), 2u);
  EXPECT_FALSE(optimizer->groups()[0].adapt);
  EXPECT_EQ(optimizer->groups()[0].weight_decay(0, 1), 0);
  EXPECT_TRUE(optimizer->groups()[1].adapt);
  for (auto& p : ours) p.tensor.mutable_grad() = torch::ones({3}, kDouble);
  optimizer->step(at(1, 1));
  EXPECT_TRUE(torch::equal(ours[0].tensor, wave(1, 3, 0)[0] - 1));
  EXPECT_LT((ours[1].tensor - wave(1, 3, 0)[0]).norm().item<double>(), 0.0011 * 1.2);
}

// All rows of a sharded parameter have a gradient, on the ranks that hold them.
class WholeRows : public ShardOwner {
 public:
  std::vector<ShardedParameter> sharded() const override { return {}; }
};

TEST(TrustRatio, NormsOfShardedTensorsAreOfAllRanks) {
  for (const std::string name : {"lars", "larc"}) {
    const Config config = Config::parse("{name: " + name + ", weight_decay: 0.02}");
    std::vector<torch::Tensor> expected;
    for (const int ranks : {1, 2, 4, 6}) {  // at 6 of 5 rows, one rank has none
      std::vector<torch::Tensor> parts(static_cast<size_t>(ranks)), whole(parts);
      run_thread_ranks(ranks, [&](Communicator& comm) {
        ASSERT_EQ(comm.size(), ranks);
        WholeRows owner;
        const Slice slice = slice_of(5, comm.rank(), comm.size());
        const auto mine = [&](const torch::Tensor& all) {
          return all.narrow(0, slice.begin, slice.size()).clone();
        };
        Parameter sharded = parameter("rows", mine(wave(5, 3, 0)));
        sharded.owner = &owner;
        sharded.shard = {"rows", slice.begin, slice.end, 5};
        Parameter replicated = parameter("replicated", wave(4, 2, 1));
        const auto optimizer = Optimizers::get().create(config, {sharded, replicated});
        for (int64_t step = 0; step < 3; ++step) {
          const double phase = static_cast<double>(10 * step);
          sharded.tensor.mutable_grad() = mine(wave(5, 3, phase));
          replicated.tensor.mutable_grad() = wave(4, 2, phase + 1);
          UpdateStep update = at_step(0.5, step);
          update.comm = &comm;
          optimizer->step(update);
        }
        parts[static_cast<size_t>(comm.rank())] = sharded.tensor.detach();
        whole[static_cast<size_t>(comm.rank())] = replicated.tensor.detach();
      });
      const auto rows = torch::cat(parts);
      if (expected.empty()) expected = {rows, whole[0]};
      EXPECT_LT((rows - expected[0]).abs().max().item<double>(), 1e-15) << name << ranks;
      for (const auto& tensor : whole) EXPECT_TRUE(torch::equal(tensor, expected[1]));
    }
    EXPECT_GT((expected[0] - wave(5, 3, 0)).abs().max().item<double>(), 1e-5);
  }
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
    if (!ours->updates_rows()) {
      owner.rows = torch::tensor(std::vector<int64_t>{1, 3});
      owner.gradient = wave(2, 3, 1);
      expect_error([&] { ours->step(at(0.1, 1)); }, {"classifier.weight", "sample of its rows"});
      EXPECT_TRUE(torch::equal(sharded.tensor, before));
      continue;
    }
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
    for (auto& p : ours) p.tensor.mutable_grad() = wave(2, 2, 3);
    const auto before = ours[1].tensor.detach().clone();
    optimizer->step({0.1, 1, [&](const torch::Tensor& t) { return t.is_same(ours[0].tensor); }});
    EXPECT_TRUE(torch::equal(ours[1].tensor, before)) << name;
    EXPECT_FALSE(torch::equal(ours[0].tensor, wave(2, 2, 0))) << name;
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
  EXPECT_EQ(optimizer->groups()[0].weight_decay(0, 1), 0);
  EXPECT_EQ(optimizer->groups()[0].parameters[0].name, "bn.weight");
  EXPECT_EQ(optimizer->groups()[1].weight_decay(0, 1), 0.1);
  EXPECT_EQ(optimizer->groups()[2].lr_scale, 10);
  EXPECT_EQ(optimizer->groups()[2].parameters[0].name, "head.weight");
  EXPECT_EQ(describe(optimizer->groups()[0]), "1 tensor, 3 numbers: lr x 1, weight decay 0");
  expect_error(
      [&] {
        Optimizers::get().create(Config::parse("{name: sgd, no_decay: ['*.bais']}"), parameters);
      },
      {"*.bais"});
  expect_error(
      [&] { Optimizers::get().create(Config::parse("{name: sgd, layer_decay: 0.5}"), parameters); },
      {"layer_decay is 0.5", "no trained parameter belongs to a network that tells"});
}

Parameter in_layer(const std::string& name, int64_t layer, int64_t layers) {
  Parameter result = parameter(name, wave(2, 2, 0));
  result.layer = layer;
  result.layers = layers;
  return result;
}

// reference/ssl_peft_unlearning.md section 12: depth 12 has layers 0 ... 13, depth 24 0 ... 25.
TEST(Optimizer, LayerDecayGivesTheGoldenFactors) {
  const std::vector<Parameter> base{in_layer("patch", 0, 14), in_layer("blocks.0", 1, 14),
                                    in_layer("blocks.11", 12, 14), in_layer("norm", 13, 14),
                                    parameter("head", wave(2, 2, 0))};
  const auto optimizer = Optimizers::get().create(
      Config::parse("{name: adamw, layer_decay: 0.65, rules: [{match: 'layer<1', lr_scale: 0.2}]}"),
      base);
  const auto& groups = optimizer->groups();
  ASSERT_EQ(groups.size(), 4u);  // the norm and the head share one
  EXPECT_NEAR(groups[0].lr_scale, 0.2 * .00369721, 5e-9);
  EXPECT_EQ(groups[0].parameters.front().name, "patch");
  EXPECT_NEAR(groups[1].lr_scale, .00568801, 5e-9);
  EXPECT_NEAR(groups[2].lr_scale, .65, 1e-15);
  EXPECT_EQ(groups[3].lr_scale, 1);
  EXPECT_EQ(groups[3].parameters.size(), 2u);
  const auto large = Optimizers::get().create(Config::parse("{name: adamw, layer_decay: 0.75}"),
                                              {in_layer("patch", 0, 26)});
  EXPECT_NEAR(large->groups()[0].lr_scale, .00075254, 5e-9);
}

TEST(Optimizer, WeightDecayFollowsItsScheduleWhereItActs) {
  std::vector<Parameter> ours{parameter("a", wave(2, 2, 0)), parameter("bias", wave(1, 2, 1)[0])};
  // DINO's: half a cosine from 0.04 to 0.4.
  const auto optimizer = Optimizers::get().create(
      Config::parse("{name: sgd, momentum: 0, no_decay: ['rank<2'], weight_decay: {at: [0, '2 "
                    "epochs'], value: [0.04, 0.4], interpolate: cosine}}"),
      ours);
  double kept = 1;
  for (int64_t step = 0; step < 25; ++step) {
    for (auto& p : ours) p.tensor.mutable_grad() = torch::zeros_like(p.tensor);
    optimizer->step(at_step(0.5, step));
    const double part = std::min(static_cast<double>(step) / 20, 1.0);
    kept *= 1 - 0.5 * (0.4 + 0.5 * (0.04 - 0.4) * (1 + std::cos(M_PI * part)));
    EXPECT_NEAR(value_at(ours[0].tensor, 1), kept * std::sin(0.7), 1e-15) << step;
  }
  EXPECT_TRUE(torch::equal(ours[1].tensor, wave(1, 2, 1)[0]));
}

// Before its start a tensor is as if it were not there, and from then on as if training began.
TEST(Optimizer, ALateGroupStartsLikeAFreshOne) {
  for (const auto& name : Optimizers::get().names()) {
    std::vector<Parameter> ours{parameter("trunk", wave(2, 3, 0)),
                                parameter("last", wave(2, 3, 1))},
        fresh{parameter("last", wave(2, 3, 1))};
    const auto late = Optimizers::get().create(
        Config::parse("{name: " + name +
                      ", weight_decay: 0.1, rules: [{match: last, from: '0.3 epochs'}]}"),
        ours);
    const auto reference =
        Optimizers::get().create(Config::parse("{name: " + name + ", weight_decay: 0.1}"), fresh);
    EXPECT_NE(describe(late->groups()[1]).find(", from 0.3 epochs"), std::string::npos);
    for (int64_t step = 0; step < 6; ++step) {
      const auto before = ours[0].tensor.detach().clone();
      for (auto& p : ours) p.tensor.mutable_grad() = wave(2, 3, static_cast<double>(step));
      late->step(at_step(0.1, step));
      EXPECT_FALSE(torch::equal(ours[0].tensor, before)) << name;
      if (step < 3) {
        EXPECT_TRUE(torch::equal(ours[1].tensor, wave(2, 3, 1))) << name << step;
        for (const auto& state : late->state())
          if (state.name.starts_with("last.")) {
            EXPECT_EQ(state.tensor.abs().max().item<double>(), 0) << state.name;
          }
        continue;
      }
      fresh[0].tensor.mutable_grad() = wave(2, 3, static_cast<double>(step));
      reference->step(at_step(0.1, step - 3));
      EXPECT_TRUE(torch::equal(ours[1].tensor, fresh[0].tensor)) << name << step;
    }
  }
}

}  // namespace
}  // namespace facetrain
