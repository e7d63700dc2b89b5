// One suite over every registered margin, and over the margins that prove the interface: value
// against the formula (1e-9), gradients against the formula's autograd (1e-9) and its central
// differences (1e-5), the same at any number of ranks, with sampled classes and in micro-batches.
// All in float64.
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
  const Parameters at = make_parameters(problem, margin.make()->rule());
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
  if (GetParam().name == "adaface")
    problem = make_problem(2, 3, 5, 11);  // the deviation of one norm is not defined
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

std::string name_of(const ::testing::TestParamInfo<MarginCase>& info) { return info.param.name; }
INSTANTIATE_TEST_SUITE_P(Registered, MarginConformance, ::testing::ValuesIn(registered_cases()),
                         name_of);
INSTANTIATE_TEST_SUITE_P(Interface, MarginConformance, ::testing::ValuesIn(interface_cases()),
                         name_of);

TEST(MarginRegistry, EveryMarginHasAFormulaInTheSuite) {
  std::set<std::string> covered;
  for (const MarginCase& c : registered_cases()) covered.insert(c.name.substr(0, c.name.find('_')));
  const auto& names = Margins::get().names();
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), covered);
}

TEST(MarginRegistry, OptionsAreChecked) {
  EXPECT_THROW(Margins::get().create(Config::parse("{name: arcface, fallback: soft}")), Error);
  EXPECT_THROW(Margins::get().create(Config::parse("{name: arcface, margn: 0.3}")), Error);
  EXPECT_THROW(Margins::get().create(Config::parse("{name: cosface, scale: 0}")), Error);
}

MarginInput at_cosines(const std::vector<double>& cosines) {
  MarginInput in;
  in.target = torch::tensor(cosines, torch::kDouble);
  in.norm = torch::ones_like(in.target);
  return in;
}

// The figures are cos(acos(c) + 0.5) and c - 0.5 sin(0.5), worked out by hand from the formulas.
TEST(ArcFace, FallbacksAtTheThreshold) {
  const double edge = std::cos(M_PI - 0.5);  // -0.87758
  const MarginInput in = at_cosines({edge + 1e-6, edge - 1e-6, 1e-6, -1e-6, 1.0, -1.0});
  const auto phi = [&](const std::string& fallback) {
    return Margins::get()
        .create(Config::parse("{name: arcface, fallback: " + fallback + "}"))
        ->apply(in)
        .phi;
  };
  const double drop = 0.5 * std::sin(0.5);
  const torch::Tensor hard = phi("hard"), easy = phi("easy"), none = phi("none");
  EXPECT_NEAR(hard[0].item<double>(), std::cos(std::acos(edge + 1e-6) + 0.5), 1e-12);
  EXPECT_NEAR(hard[1].item<double>(), edge - 1e-6 - drop, 1e-12);
  EXPECT_NEAR(hard[5].item<double>(), -1 - drop, 1e-12);
  EXPECT_NEAR(easy[2].item<double>(), std::cos(std::acos(1e-6) + 0.5), 1e-12);
  EXPECT_NEAR(easy[3].item<double>(), -1e-6, 1e-15);
  EXPECT_NEAR(none[1].item<double>(), std::cos(std::acos(edge - 1e-6) + 0.5), 1e-12);
  for (const torch::Tensor& all : {hard, easy, none})
    EXPECT_NEAR(all[4].item<double>(), std::cos(0.5), 1e-5);
}

TEST(ArcFace, StraightThroughTakesTheDerivativeAsOne) {
  const MarginInput in = at_cosines({-0.95, -0.5, 0.0, 0.5, 0.9});
  const auto out = Margins::get()
                       .create(Config::parse("{name: arcface, gradient: straight_through}"))
                       ->apply(in);
  EXPECT_TRUE(torch::equal(out.dphi_dcos, torch::ones_like(in.target)));
  const auto exact = Margins::get().create(Config::parse("{name: arcface}"))->apply(in);
  EXPECT_TRUE(torch::equal(out.phi, exact.phi));
  // sin(θ + m) / sin θ at θ = π / 3.
  EXPECT_NEAR(exact.dphi_dcos[3].item<double>(), std::sin(M_PI / 3 + 0.5) / std::sin(M_PI / 3),
              1e-12);
}

// A margin's statistics change at commit, and only there (DESIGN section 3, "Buffers").
TEST(MarginState, ChangesAtCommitOnly) {
  for (const MarginCase& c : interface_cases()) {
    if (!c.batch_statistics) continue;
    SCOPED_TRACE(c.name);
    const auto margin = c.make();
    const auto comm = make_thread_comms(1)[0];
    ClassifierOptions options;
    options.classes = 10;
    ShardedClassifier classifier(options, 8, margin, *comm, 1);
    classifier.to(torch::kDouble);
    ASSERT_FALSE(classifier.buffers().empty());
    std::vector<torch::Tensor> before;
    for (const auto& buffer : classifier.buffers()) before.push_back(buffer.clone());
    const Problem problem = make_problem(6, 10, 8, 2);
    classifier.forward(problem.x, problem.label, torch::arange(6));
    for (size_t i = 0; i < before.size(); ++i)
      EXPECT_TRUE(torch::equal(classifier.buffers()[i], before[i]));
    margin->discard();
    classifier.forward(problem.x, problem.label, torch::arange(6));
    margin->commit();
    for (size_t i = 0; i < before.size(); ++i)
      EXPECT_FALSE(torch::equal(classifier.buffers()[i], before[i]));
  }
}

}  // namespace
}  // namespace facetrain::testing
