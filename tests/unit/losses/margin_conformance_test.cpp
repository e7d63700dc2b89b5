// One suite over every registered margin in its variants, and over every rule of the negatives:
// value against the formula (1e-9), gradients against the formula's autograd (1e-9) and its central
// differences (1e-5), the same at any number of ranks, with sampled classes and in micro-batches,
// all in float64; near that in fp32 and bf16; finite at the edges.
#include <gtest/gtest.h>

#include <set>

#include "comm/thread_comm.h"
#include "losses/class_draws.h"
#include "tests/unit/losses/classifier_problem.h"

namespace facetrain::testing {
namespace {

void expect_equal(const Solution& a, const Solution& b, double tolerance) {
  EXPECT_LE(difference(a.loss, b.loss), tolerance) << "loss";
  EXPECT_LE(difference(a.by_x, b.by_x), tolerance) << "gradient by embeddings";
  EXPECT_LE(difference(a.by_weight, b.by_weight), tolerance) << "gradient by class rows";
  EXPECT_LE(difference(a.by_bias, b.by_bias), tolerance) << "gradient by bias";
  EXPECT_LE(difference(a.by_shared_bias, b.by_shared_bias), tolerance) << "gradient by shared bias";
}

class MarginConformance : public ::testing::TestWithParam<MarginCase> {};

TEST_P(MarginConformance, EqualsItsFormulaAtEveryWorldSize) {
  const Problem problem = make_problem(11, 10, 8, 5);
  Held held;
  const Solution expected = solve_reference(problem, GetParam(), {}, held);
  ASSERT_TRUE(expected.loss.isfinite().all().item<bool>());
  for (const int size : {1, 2, 3, 4}) {
    SCOPED_TRACE(size);
    const Solution found = solve_sharded(problem, GetParam(), size);
    expect_equal(found, expected, 1e-9);
    EXPECT_TRUE(torch::equal(found.classes, torch::arange(problem.classes)));
  }
}

TEST_P(MarginConformance, GradientsAreCentralDifferences) {
  const Problem problem = make_problem(11, 10, 8, 6);
  const MarginCase& margin = GetParam();
  Held held;
  solve_reference(problem, margin, {}, held);
  const Solution found = solve_sharded(problem, margin, 2);
  const Parameters at = make_parameters(problem, rule_of(problem, margin));
  const auto objective = [&](const torch::Tensor& x, const torch::Tensor& weight) {
    const Parameters moved{weight, at.bias, at.shared_bias};
    return (reference_losses(problem, margin, moved, x, {}, held) * problem.row_weight)
        .sum()
        .item<double>();
  };
  for (int64_t k = 0; k < 6; ++k) {
    // Alternating directions of every row, the step in proportion to the tensors' sizes.
    const torch::Tensor dx =
        torch::cos(torch::arange(problem.x.numel(), torch::kDouble) * (1.3 + k))
            .view_as(problem.x) *
        problem.x.abs().mean();
    const torch::Tensor dw =
        torch::sin(torch::arange(at.weight.numel(), torch::kDouble) * (0.7 + k))
            .view_as(at.weight) *
        0.01;
    const double h = 1e-6;
    const double by_x =
        (objective(problem.x + h * dx, at.weight) - objective(problem.x - h * dx, at.weight)) /
        (2 * h);
    const double by_w =
        (objective(problem.x, at.weight + h * dw) - objective(problem.x, at.weight - h * dw)) /
        (2 * h);
    EXPECT_NEAR((found.by_x * dx).sum().item<double>(), by_x, 1e-5 * std::max(1.0, std::abs(by_x)));
    EXPECT_NEAR((found.by_weight * dw).sum().item<double>(), by_w,
                1e-5 * std::max(1.0, std::abs(by_w)));
  }
}

TEST_P(MarginConformance, SampledClassesAreTheSameAtEveryWorldSizeAndTheRestrictedFormula) {
  for (const double rate : {0.0, 0.3, 1.0}) {
    Problem problem = make_problem(9, 23, 6, 8);
    problem.sample_rate = rate;
    const torch::Tensor subset = rate < 1 ? draw_step_classes({0, problem.classes}, problem.label,
                                                              rate, problem.seed, problem.step)
                                          : torch::Tensor();
    Held held;
    const Solution expected = solve_reference(problem, GetParam(), subset, held);
    for (const int size : {1, 2, 3, 4}) {
      SCOPED_TRACE(fmt::format("rate {} at {} ranks", rate, size));
      const Solution found = solve_sharded(problem, GetParam(), size);
      expect_equal(found, expected, 1e-9);
      EXPECT_TRUE(
          torch::equal(found.classes, subset.defined() ? subset : torch::arange(problem.classes)));
    }
  }
}

TEST_P(MarginConformance, OneRowAndOneClassARank) {
  Problem problem = make_problem(1, 3, 5, 11);
  Held held;
  const Solution expected = solve_reference(problem, GetParam(), {}, held);
  expect_equal(solve_sharded(problem, GetParam(), 1), expected, 1e-9);
  problem = make_problem(4, 3, 5, 11);  // four ranks, three classes: one rank has none
  Held other;
  expect_equal(solve_sharded(problem, GetParam(), 4),
               solve_reference(problem, GetParam(), {}, other), 1e-9);
}

TEST_P(MarginConformance, MicroBatchesAreOneBatch) {
  if (GetParam().batch_statistics) {
    // Then a micro-batch has other statistics: it must equal the formula of that micro-batch alone.
    Problem half = make_problem(12, 10, 8, 9);
    half.x = half.x.slice(0, 0, 6);
    half.label = half.label.slice(0, 0, 6);
    half.row_weight = half.row_weight.slice(0, 0, 6);
    Held held;
    expect_equal(solve_sharded(half, GetParam(), 2), solve_reference(half, GetParam(), {}, held),
                 1e-9);
    return;
  }
  for (const double rate : {0.4, 1.0}) {
    Problem problem = make_problem(12, 10, 8, 9);
    problem.sample_rate = rate;
    const Solution whole = solve_sharded(problem, GetParam(), 2);
    for (const int64_t parts : {2, 3}) {
      problem.micro_batches = parts;
      expect_equal(solve_sharded(problem, GetParam(), 2), whole, 1e-12);
    }
  }
}

// Rows with rounding in the features alone: fp32 is off by the rounding of a logit, bf16 factors by
// a cosine of 2^-9 times the scale.
TEST_P(MarginConformance, StaysNearItselfInFp32AndBf16) {
  const MarginCase& margin = GetParam();
  Problem problem = make_problem(16, 20, 16, 4);
  problem.x = (problem.x / problem.x.norm(2, 1, true) * 20).to(torch::kBFloat16).to(torch::kDouble);
  const Solution exact = solve_sharded(problem, margin, 2);
  const auto relative = [](const torch::Tensor& a, const torch::Tensor& b) {
    return ((a - b).norm() / b.norm()).item<double>();
  };
  const Solution single = solve_sharded(problem, margin, 2, torch::kFloat, torch::kFloat);
  EXPECT_LE(relative(single.loss, exact.loss), 1e-5);
  EXPECT_LE(relative(single.by_x, exact.by_x), 1e-4);
  EXPECT_LE(relative(single.by_weight, exact.by_weight), 1e-4);
  const Solution reduced = solve_sharded(problem, margin, 2, torch::kBFloat16, torch::kFloat);
  EXPECT_LE(relative(reduced.loss, exact.loss), 0.05);
  EXPECT_LE(relative(reduced.by_weight, exact.by_weight), 0.1);
  EXPECT_GT(relative(reduced.by_weight, exact.by_weight), 1e-5);  // bf16 factors indeed
}

// Whether a row's logits grow with its feature's norm.
bool grows_with_norm(Margin& margin) {
  MarginInput in;
  in.target = in.norm = in.prepass_sum = in.prepass_count = torch::full({1}, 0.5);
  in.label = in.position = torch::zeros({1}, torch::kLong);
  in.classes = 6;
  const bool grows = !margin.rule().normalise || margin.apply(in).dscale_dnorm.defined();
  margin.discard();
  return grows;
}

// Features that are zero, tiny or huge, on their class's row or opposite to it. Logits of 1e15 have
// no digits left of a soft-max in fp32: where they grow with the norm, that is 1e6.
TEST_P(MarginConformance, IsFiniteAtTheEdges) {
  const auto comm = make_thread_comms(1)[0];
  for (const auto type : {torch::kFloat, torch::kDouble})
    for (const double rate : {1.0, 0.0}) {
      SCOPED_TRACE(fmt::format("{} at rate {}", toString(type), rate));
      ClassifierOptions options;
      options.classes = 6;
      options.sample_rate = rate;
      ShardedClassifier classifier(options, 8, GetParam().make(), *comm, 3);
      classifier.to(type);
      const int64_t k = classifier.margin().rule().rows_per_class;
      const double huge =
          type == torch::kFloat && grows_with_norm(classifier.margin()) ? 1e6 : 1e15;
      const torch::Tensor own = classifier.weight.detach()[2 * k] * 100;
      const torch::Tensor other = classifier.weight.detach()[4 * k];
      const torch::Tensor x = torch::stack({torch::zeros_like(own), own, -own, own * huge,
                                            other * huge, -own * huge, own * 1e-20, other})
                                  .set_requires_grad(true);
      const torch::Tensor labels = torch::full({x.size(0)}, 2, torch::kLong);
      classifier.begin_step(std::vector<torch::Tensor>{labels}, 0, 1, 1);
      const torch::Tensor loss = classifier.forward(x, labels, torch::arange(x.size(0)));
      EXPECT_TRUE(loss.isfinite().all().item<bool>()) << loss;
      loss.mean().backward();
      EXPECT_TRUE(x.grad().isfinite().all().item<bool>()) << x.grad();
      const torch::Tensor by_weight =
          rate < 1 ? classifier.row_gradient("weight") : classifier.weight.grad();
      EXPECT_TRUE(by_weight.isfinite().all().item<bool>()) << by_weight;
      classifier.margin().commit();
      for (const torch::Tensor& buffer : classifier.buffers())
        EXPECT_TRUE(buffer.isfinite().all().item<bool>()) << buffer;
    }
}

std::string name_of(const ::testing::TestParamInfo<MarginCase>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Registered, MarginConformance, ::testing::ValuesIn(registered_cases()),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Interface, MarginConformance, ::testing::ValuesIn(interface_cases()),
                         name_of);

// A margin without a case fails here; its case is then run by all of the above.
TEST(MarginRegistry, EveryMarginHasAFormulaInTheSuite) {
  std::set<std::string> covered, labels;
  for (const MarginCase& c : registered_cases()) {
    covered.insert(c.margin);
    EXPECT_TRUE(labels.insert(c.name).second) << c.name;
  }
  const auto& names = Margins::get().names();
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), covered);
}

// With its defaults, that is: the case named like the margin has no options.
TEST(MarginRegistry, EveryMarginIsTestedAsItComes) {
  std::set<std::string> labels;
  for (const MarginCase& c : registered_cases()) labels.insert(c.name);
  for (const std::string& name : Margins::get().names()) EXPECT_TRUE(labels.count(name)) << name;
}

}  // namespace
}  // namespace facetrain::testing
