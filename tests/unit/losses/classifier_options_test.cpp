// Options of the classifier that work over any soft-max margin: label smoothing, focal weights,
// inter-class filtering, in-batch pair negatives (UNPG), alone and together, with shards, sampled
// classes, micro-batches and reduced precision; and which of them a margin cannot carry.
//
// Value and gradients against composites in float64 (1e-9 of max(1, |value|), and 1e-8 of the whole
// gradient), and against central differences (1e-6).
#include <gtest/gtest.h>

#include <limits>

#include "comm/thread_comm.h"
#include "losses/class_draws.h"
#include "losses/pair_negatives.h"
#include "tests/support/error_of.h"
#include "tests/support/peak_memory.h"
#include "tests/unit/losses/option_cases.h"

namespace facetrain::testing {
namespace {

using torch::Tensor;

double relative(const Tensor& a, const Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

void expect_equal(const Solution& found, const Solution& expected) {
  EXPECT_LE(difference(found.loss, expected.loss), 1e-9);
  EXPECT_LE(difference(found.by_x, expected.by_x), 1e-9);
  EXPECT_LE(difference(found.by_weight, expected.by_weight), 1e-9);
  EXPECT_LE(difference(found.by_bias, expected.by_bias), 1e-9);
  EXPECT_LE(relative(found.by_x, expected.by_x), 1e-8);
  EXPECT_LE(relative(found.by_weight, expected.by_weight), 1e-8);
}

class ClassifierOptionsCase : public ::testing::TestWithParam<OptionCase> {
 protected:
  const MarginCase& margin() const { return GetParam().margin; }
  Problem problem(int64_t rows, int64_t classes, int64_t dim, uint64_t seed) const {
    return with_options(make_problem(rows, classes, dim, seed), GetParam());
  }
};

// At four ranks a shard has classes that no label names.
TEST_P(ClassifierOptionsCase, EqualsItsFormulaAtEveryWorldSize) {
  const Problem p = problem(11, 10, 8, 5);
  Held held;
  const Solution expected = solve_reference(p, margin(), {}, held);
  ASSERT_TRUE(expected.loss.isfinite().all().item<bool>());
  for (const int size : {1, 2, 3, 4}) {
    SCOPED_TRACE(size);
    expect_equal(solve_sharded(p, margin(), size), expected);
  }
}

TEST_P(ClassifierOptionsCase, ChangesTheLoss) {
  const Problem p = problem(11, 10, 8, 5), plain = make_problem(11, 10, 8, 5);
  const Solution with = solve_sharded(p, margin(), 2), without = solve_sharded(plain, margin(), 2);
  EXPECT_GT(difference(with.loss, without.loss), 1e-6);
  EXPECT_GT(relative(with.by_x, without.by_x), 1e-6);
}

TEST_P(ClassifierOptionsCase, SampledClassesAreTheRestrictedFormula) {
  for (const double rate : {0.0, 0.3}) {
    Problem p = problem(9, 23, 6, 8);
    p.sample_rate = rate;
    const Tensor subset = draw_step_classes({0, p.classes}, p.label, rate, p.seed, p.step);
    ASSERT_LT(subset.size(0), p.classes);
    Held held;
    const Solution expected = solve_reference(p, margin(), subset, held);
    for (const int size : {1, 2, 3, 4}) {
      SCOPED_TRACE(fmt::format("rate {} at {} ranks", rate, size));
      const Solution found = solve_sharded(p, margin(), size);
      expect_equal(found, expected);
      EXPECT_TRUE(torch::equal(found.classes, subset));
    }
  }
}

TEST_P(ClassifierOptionsCase, GradientsAreCentralDifferences) {
  const Problem p = problem(11, 10, 8, 6);
  Held held;
  solve_reference(p, margin(), {}, held);
  const Solution found = solve_sharded(p, margin(), 3);
  const Parameters at = make_parameters(p, margin().make()->rule());
  const auto objective = [&](const Tensor& x, const Tensor& weight) {
    const Tensor losses = reference_losses(p, margin(), {weight, at.bias, {}}, x, {}, held);
    return (losses * p.row_weight).sum().item<double>();
  };
  for (int64_t k = 0; k < 4; ++k) {
    const Tensor dx =
        torch::cos(torch::arange(p.x.numel(), torch::kDouble) * (1.3 + k)).view_as(p.x) *
        p.x.abs().mean();
    const Tensor dw = torch::sin(torch::arange(at.weight.numel(), torch::kDouble) * (0.7 + k))
                          .view_as(at.weight) *
                      0.01;
    const double h = 1e-6;
    const double by_x =
        (objective(p.x + h * dx, at.weight) - objective(p.x - h * dx, at.weight)) / (2 * h);
    const double by_w =
        (objective(p.x, at.weight + h * dw) - objective(p.x, at.weight - h * dw)) / (2 * h);
    EXPECT_NEAR((found.by_x * dx).sum().item<double>(), by_x, 1e-6 * std::max(1.0, std::abs(by_x)));
    EXPECT_NEAR((found.by_weight * dw).sum().item<double>(), by_w,
                1e-6 * std::max(1.0, std::abs(by_w)));
  }
}

// With pair negatives each micro-batch has its own pairs: it is the formula of its rows alone.
TEST_P(ClassifierOptionsCase, MicroBatches) {
  for (const double rate : {0.4, 1.0}) {
    Problem p = problem(12, 10, 8, 9);
    p.sample_rate = rate;
    const Tensor subset =
        rate < 1 ? draw_step_classes({0, p.classes}, p.label, rate, p.seed, p.step) : Tensor();
    for (const int64_t parts : {2, 3}) {
      SCOPED_TRACE(fmt::format("{} micro-batches at rate {}", parts, rate));
      Solution expected;
      for (int64_t part = 0; part < (margin().batch_statistics ? parts : 1); ++part) {
        Problem some = p;
        if (margin().batch_statistics) {
          const Slice rows = slice_of(12, static_cast<int>(part), static_cast<int>(parts));
          for (Tensor* all : {&some.x, &some.label, &some.row_weight})
            *all = all->slice(0, rows.begin, rows.end);
        }
        Held held;
        const Solution one = solve_reference(some, margin(), subset, held);
        if (part == 0) {
          expected = one;
        } else {
          expected.loss = torch::cat({expected.loss, one.loss});
          expected.by_x = torch::cat({expected.by_x, one.by_x});
          expected.by_weight = expected.by_weight + one.by_weight;
          if (one.by_bias.defined()) expected.by_bias = expected.by_bias + one.by_bias;
        }
      }
      p.micro_batches = parts;
      expect_equal(solve_sharded(p, margin(), 2), expected);
    }
  }
}

std::string name_of(const ::testing::TestParamInfo<OptionCase>& info) {
  return info.param.margin.name;
}
INSTANTIATE_TEST_SUITE_P(Margins, ClassifierOptionsCase, ::testing::ValuesIn(option_cases()),
                         name_of);

// Every registered margin under every option: the same at one and three ranks, or an error that
// names the option.
class ClassifierOptionsRegistered : public ::testing::TestWithParam<MarginCase> {};

TEST_P(ClassifierOptionsRegistered, CarriesOrRefusesEachOption) {
  const MarginRule rule = GetParam().make()->rule();
  const bool softmax = rule.reduction == RowReduction::kSoftmax;
  const struct {
    const char* name;
    OptionValues values;
    bool carried;
  } options[] = {
      {"label_smoothing", {0.1, 0, 0, 0}, softmax},
      {"focal_gamma", {0, 2, 0, 0}, softmax},
      {"filter_above", {0, 0, 0.3, 0}, rule.normalise && rule.negative == NegativeRule::kNone},
      {"unpg_whisker", {0, 0, 0, 0.5}, softmax && rule.normalise}};
  for (const auto& [name, values, carried] : options) {
    SCOPED_TRACE(name);
    Problem problem = make_problem(11, 10, 8, 5);
    problem.sample_rate = 0.5;
    const Solution plain = solve_sharded(problem, GetParam(), 1);
    problem.configure = [&](ClassifierOptions& o) { values.set(o); };
    if (!carried) {
      expect_error([&] { solve_sharded(problem, GetParam(), 1); },
                   {fmt::format("classifier.{} = ", name), "set it to 0"});
      continue;
    }
    const Solution one = solve_sharded(problem, GetParam(), 1);
    expect_equal(solve_sharded(problem, GetParam(), 3), one);
    EXPECT_GT(difference(one.loss, plain.loss), 1e-9);
  }
}

INSTANTIATE_TEST_SUITE_P(Margins, ClassifierOptionsRegistered,
                         ::testing::ValuesIn(registered_cases()),
                         [](const auto& info) { return info.param.name; });

// fp32: 64 * 2^-22 in a logit. bf16 factors: cosines are off by about 2^-9; without the filter,
// whose threshold such a cosine may cross.
TEST(ClassifierOptionsPrecision, Fp32AndBf16StayNearFp64) {
  Problem problem = make_problem(24, 40, 32, 3);
  problem.x = problem.x.to(torch::kBFloat16).to(torch::kDouble);  // the same features for all
  problem.workspace_mb = 1;
  for (const char* name :
       {"cosface_all", "cosface_all_but_filter", "norms_all_but_filter", "arcface_smooth_focal"}) {
    SCOPED_TRACE(name);
    const OptionCase c = option_case(name);
    const Problem p = with_options(problem, c);
    const Solution exact = solve_sharded(p, c.margin, 2);
    const Solution single = solve_sharded(p, c.margin, 2, torch::kFloat, torch::kFloat);
    EXPECT_LE(difference(single.loss, exact.loss), 1e-4);
    EXPECT_LE(relative(single.by_weight, exact.by_weight), 1e-4);
    EXPECT_LE(relative(single.by_x, exact.by_x), 1e-4);
    if (c.options.filter > 0) continue;
    const Solution reduced = solve_sharded(p, c.margin, 2, torch::kBFloat16, torch::kFloat);
    EXPECT_LE(difference(reduced.loss, exact.loss), 0.25);
    EXPECT_LE(relative(reduced.by_weight, exact.by_weight), 0.1);
    EXPECT_LE(relative(reduced.by_x, exact.by_x), 0.1);
    EXPECT_GT(relative(reduced.by_weight, exact.by_weight), 1e-4);  // bf16 factors indeed
  }
}

TEST(ClassifierOptionsPrecision, SameBitsRunToRun) {
  Problem problem = make_problem(24, 300, 32, 3);
  problem.workspace_mb = 0.02;
  for (const char* name : {"cosface_all", "norms_all_but_filter"}) {
    const OptionCase c = option_case(name);
    const Problem p = with_options(problem, c);
    const Solution a = solve_sharded(p, c.margin, 3, torch::kFloat, torch::kFloat),
                   b = solve_sharded(p, c.margin, 3, torch::kFloat, torch::kFloat);
    EXPECT_TRUE(torch::equal(a.loss, b.loss));
    EXPECT_TRUE(torch::equal(a.by_x, b.by_x));
    EXPECT_TRUE(torch::equal(a.by_weight, b.by_weight));
  }
}

// ---- UNPG by hand -------------------------------------------------------------------------------

Tensor doubles(const std::vector<double>& values) { return torch::tensor(values, torch::kDouble); }

TEST(InsideWhiskers, QuartilesInterpolateAndEndsAreIn) {
  const auto kept = [](const std::vector<double>& values, double whisker) {
    const Tensor mask = inside_whiskers(doubles(values), whisker);
    return std::vector<bool>(mask.data_ptr<bool>(), mask.data_ptr<bool>() + mask.numel());
  };
  // 1 2 3 4: quartiles 1.75 and 3.25, 1.5 apart. The elements below would be 2 and 4.
  EXPECT_EQ(kept({3, 1, 4, 2}, 0.5), (std::vector{true, true, true, true}));    // [1, 4]
  EXPECT_EQ(kept({3, 1, 4, 2}, 0.4), (std::vector{true, false, false, true}));  // [1.15, 3.85]
  // numpy.quantile([-3, 0.5, 1, 7, 20, 21], [.25, .75]) = 0.625, 16.75
  EXPECT_EQ(kept({-3, 0.5, 1, 7, 20, 21}, 0.2),
            (std::vector{false, true, true, true, false, false}));  // [-2.6, 19.975]
  EXPECT_EQ(kept({5}, 1.5), std::vector{true});
  EXPECT_EQ(kept({5, 5, 5, 9}, 1.5), (std::vector{true, true, true, false}));  // quartiles 5 and 6
  EXPECT_TRUE(kept({}, 1.5).empty());
}

// Four rows of three identities in the plane. The pairs of different identities have the cosines
// 0 (0, 2), -1 (0, 3), 0.8 (1, 2), -0.6 (1, 3) and 0 (2, 3): quartiles -0.6 and 0.
Tensor plane_rows() { return doubles({2, 0, 0.6, 0.8, 0, 3, -1, 0}).view({4, 2}); }
Tensor plane_labels() { return torch::tensor({0, 0, 1, 2}, torch::kLong); }

TEST(PairNegatives, AreTheUnorderedPairsInsideTheWhiskers) {
  const Tensor unit = plane_rows() / plane_rows().norm(2, 1, true);
  EXPECT_EQ(PairNegatives(unit, plane_labels(), 1.5).size(), 5);  // [-1.5, 0.9]
  EXPECT_EQ(PairNegatives(unit, plane_labels(), 1.0).size(), 4);  // [-1.2, 0.6]
  EXPECT_EQ(PairNegatives(unit, plane_labels(), 0.5).size(), 3);  // [-0.9, 0.3]
  EXPECT_EQ(PairNegatives(unit, torch::zeros({4}, torch::kLong), 1.0).size(), 0);
  EXPECT_EQ(PairNegatives(unit.slice(0, 0, 1), plane_labels().slice(0, 0, 1), 1.0).size(), 0);
}

// Class rows (1, 0), (0, 1), (-1, 0), scale 1, no margin, whisker 1: row 0 has log(e + 1 + 1/e +
// 1/e
// + e^-0.6 + 1 + 1) - 1 = 0.94631754418664, and so on.
TEST(PairNegatives, LossesWorkedOutByHand) {
  const std::vector<std::vector<double>> expected{
      {0.94631754418664, 1.4166564746416985, 1.0327393899707187, 0.94631754418664},
      {0.391677080325892, 0.831961489801766, 0.4559203405395477, 0.391677080325892}};
  for (const int size : {1, 2, 3}) {
    run_thread_ranks(size, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), size);
      for (const bool smooth_and_focal : {false, true}) {
        ClassifierOptions options;
        options.classes = 3;
        options.unpg_whisker = 1;
        if (smooth_and_focal) {
          options.label_smoothing = 0.1;
          options.focal_gamma = 2;
        }
        ShardedClassifier classifier(
            options, 2,
            Margins::get().create(Config::parse("{name: cosface, margin: 0, scale: 1}")), comm, 1);
        classifier.to(torch::kDouble);
        const Slice here = slice_of(3, comm.rank(), size);
        const Slice mine = slice_of(4, comm.rank(), size);
        const torch::NoGradGuard no_grad;
        classifier.weight.copy_(
            doubles({1, 0, 0, 1, -1, 0}).view({3, 2}).slice(0, here.begin, here.end));
        const auto own = [&](const Tensor& all) { return all.slice(0, mine.begin, mine.end); };
        const Tensor loss =
            classifier.forward(own(plane_rows()), own(plane_labels()), own(torch::arange(4)));
        EXPECT_LE(difference(loss, own(doubles(expected[smooth_and_focal ? 1 : 0]))), 1e-12);
      }
    });
  }
}

TEST(PairNegatives, OneIdentityInTheBatchAddsNothing) {
  const OptionCase c = option_case("cosface_unpg");
  Problem problem = make_problem(6, 10, 8, 4);
  problem.label.fill_(3);
  const Solution plain = solve_sharded(problem, c.margin, 2);
  const Solution found = solve_sharded(with_options(problem, c), c.margin, 2);
  EXPECT_TRUE(torch::equal(found.loss, plain.loss));
  EXPECT_TRUE(torch::equal(found.by_x, plain.by_x));
}

// ---- rows at the ends of p ----------------------------------------------------------------------

// One row at its class and one opposite, scale 1024: 1 - p is 0 (e^-1000) and 1 (log p = -2000).
TEST(FocalWeight, StaysFiniteWhereARowIsCertain) {
  for (const auto type : {torch::kFloat, torch::kDouble})
    for (const double gamma : {0.5, 1.0, 2.0, 5.0})
      for (const double smoothing : {0.0, 0.1}) {
        SCOPED_TRACE(fmt::format("gamma {} smoothing {}", gamma, smoothing));
        const auto comm = make_thread_comms(1)[0];
        ClassifierOptions options;
        options.classes = 4;
        options.focal_gamma = gamma;
        options.label_smoothing = smoothing;
        ShardedClassifier classifier(
            options, 4,
            Margins::get().create(Config::parse("{name: cosface, margin: 0, scale: 1024}")), *comm,
            1);
        classifier.to(type);
        {
          const torch::NoGradGuard no_grad;
          classifier.weight.copy_(torch::eye(4));
        }
        const Tensor x = torch::tensor({1, 0, 0, 0, 1, -1, 0, 0}, type).view({2, 4});
        const Tensor leaf = x.clone().set_requires_grad(true);
        const Tensor loss =
            classifier.forward(leaf, torch::tensor({0, 1}, torch::kLong), torch::arange(2));
        loss.sum().backward();
        if (smoothing == 0) {
          EXPECT_EQ(loss[0].item<double>(), 0);
          // 1448.15 = 1024 √2: the whole distance between the logits, at weight 1.
          EXPECT_NEAR(loss[1].item<double>(), 1024 * std::sqrt(2.0), 1e-3);
        }
        EXPECT_TRUE(loss.isfinite().all().item<bool>());
        EXPECT_TRUE(leaf.grad().isfinite().all().item<bool>());
        EXPECT_TRUE(classifier.weight.grad().isfinite().all().item<bool>());
      }
}

TEST(ClassifierOptionsNonFinite, OnlyTheRowsWithBadFeatures) {
  for (const char* name : {"cosface_all", "norms_all_but_filter"}) {
    const OptionCase c = option_case(name);
    SCOPED_TRACE(name);
    run_thread_ranks(2, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), 2);
      ClassifierOptions options;
      options.classes = 10;
      c.options.set(options);
      ShardedClassifier classifier(options, 8, c.margin.make(), comm, 1);
      const Problem problem = make_problem(6, 10, 8, 1);
      const Slice mine = slice_of(6, comm.rank(), 2);
      Tensor x = problem.x.slice(0, mine.begin, mine.end).to(torch::kFloat).clone();
      if (comm.rank() == 1) x[1][2] = NAN;
      x.set_requires_grad(true);
      const Tensor loss = classifier.forward(x, problem.label.slice(0, mine.begin, mine.end),
                                             torch::arange(mine.begin, mine.end));
      for (int64_t i = 0; i < 3; ++i)
        EXPECT_EQ(loss[i].isfinite().item<bool>(), comm.rank() == 0 || i != 1);
      loss.sum().backward();  // neither hangs nor throws
    });
  }
}

// ---- memory and configuration -------------------------------------------------------------------

TEST(ClassifierOptionsMemory, IsIndependentOfBatchTimesClasses) {
  constexpr int64_t kDim = 16, kClasses = 50000, kBatch = 256;
  const auto comm = make_thread_comms(1)[0];
  ClassifierOptions options;
  options.classes = kClasses;
  options.workspace_mb = 2;
  OptionValues{0.1, 2, 0.3, 1.5}.set(options);
  ShardedClassifier classifier(options, kDim,
                               Margins::get().create(Config::parse("{name: cosface}")), *comm, 1);
  const Problem problem = make_problem(kBatch, kClasses, kDim, 1);
  const Tensor x = problem.x.to(torch::kFloat).set_requires_grad(true);
  const PeakMemory peak;
  classifier.begin_step(std::vector<Tensor>{problem.label}, 0, 1, 1);
  classifier.forward(x, problem.label, torch::arange(kBatch)).mean().backward();
  const int64_t bound = kClasses * kDim * 4 + at::get_num_threads() * 2'000'000 +
                        (16 + 24) * kBatch * (kDim + 8) * 8 + 18 * kBatch * kBatch;
  EXPECT_LE(peak.bytes(), bound);
  EXPECT_LT(peak.bytes(), kBatch * kClasses * 4);
}

// A margin that is not a soft-max, or not of cosines, or that changes the negatives itself.
class Odd : public Margin {
 public:
  explicit Odd(MarginRule rule) : rule_(std::move(rule)) {}
  MarginRule rule() const override { return rule_; }
  MarginOutput apply(const MarginInput&) override { return {}; }

 private:
  MarginRule rule_;
};

std::string refusal(const std::string& yaml, const MarginRule& rule) {
  const auto comm = make_thread_comms(1)[0];
  return error_of([&] {
    auto options = Config::parse(yaml).as<ClassifierOptions>();
    options.classes = 10;
    ShardedClassifier(options, 16, std::make_shared<Odd>(rule), *comm, 1);
  });
}

TEST(ClassifierOptionsErrors, WhatAMarginCannotCarry) {
  MarginRule terms, products, changed;
  terms.reduction = RowReduction::kGatedSum;
  products.normalise = false;
  changed.negative = NegativeRule::kCircle;
  for (const char* option : {"label_smoothing: 0.1", "focal_gamma: 2", "unpg_whisker: 1.5"})
    expect_parts(refusal(fmt::format("{{{}}}", option), terms),
                 {fmt::format("classifier.{} = ", std::string(option).substr(0, 10)).substr(0, 21),
                  "ends in a soft-max", "loss.name", "set it to 0"});
  for (const char* option : {"filter_above: 0.4", "unpg_whisker: 1.5"})
    expect_parts(refusal(fmt::format("{{{}}}", option), products),
                 {"classifier.", "wants cosines", "does not normalise", "set it to 0"});
  expect_parts(refusal("{filter_above: 0.4}", changed),
               {"classifier.filter_above = 0.4", "changes them itself", "choose another loss"});
}

TEST(ClassifierOptionsErrors, ValuesOutsideTheirRange) {
  for (const char* yaml : {"{label_smoothing: 1.0}", "{label_smoothing: -0.1}", "{focal_gamma: -1}",
                           "{filter_above: 1.5}", "{unpg_whisker: -1}", "{fixed: polytope}"})
    EXPECT_THROW(Config::parse(yaml).as<ClassifierOptions>(), Error) << yaml;
}

}  // namespace
}  // namespace facetrain::testing
