// One suite over every registered pair loss, in float64: value and gradients against loops over
// anchors, positives and negatives written from the papers (1e-9), their central differences, the
// same at any number of ranks, and what batches look like when something is tied, doubled or
// missing.
#include "losses/pair_loss.h"

#include <ATen/autocast_mode.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <mutex>
#include <numeric>
#include <set>

#include "comm/collectives.h"
#include "comm/thread_comm.h"
#include "core/random.h"
#include "tests/support/error_of.h"
#include "tests/unit/losses/classifier_problem.h"

namespace facetrain::testing {
namespace {

using torch::Tensor;
using Rows = std::vector<size_t>;

// ---- the formulas, one anchor at a time

// A batch as the loops see it: scalars between two rows.
class Batch {
 public:
  Batch(const Tensor& x, std::vector<int64_t> labels, Held& held)
      : held(held), labels_(std::move(labels)) {
    for (const Tensor& row : x.unbind(0)) unit_.push_back(row / row.norm());
  }
  size_t size() const { return labels_.size(); }
  Tensor cosine(size_t i, size_t j) const { return unit_[i].dot(unit_[j]); }
  Tensor square(size_t i, size_t j) const { return (unit_[i] - unit_[j]).square().sum(); }
  double value(const Tensor& scalar) const { return scalar.item<double>(); }
  Rows positives(size_t i) const { return others(i, true); }
  Rows negatives(size_t i) const { return others(i, false); }
  Held& held;

 private:
  Rows others(size_t i, bool same) const {
    Rows found;
    for (size_t j = 0; j < size(); ++j)
      if (j != i && (labels_[i] == labels_[j]) == same) found.push_back(j);
    return found;
  }
  std::vector<Tensor> unit_;
  std::vector<int64_t> labels_;
};

Tensor zero() { return torch::zeros({}, torch::kDouble); }
Tensor hinge(const Tensor& value) { return value.item<double>() > 0 ? value : zero(); }

using AnchorLoss = std::function<Tensor(const Batch&, size_t anchor)>;

AnchorLoss semihard(double margin) {
  return [=](const Batch& b, size_t a) {
    Tensor sum = zero();
    for (const size_t p : b.positives(a)) {
      Tensor nearest;
      for (const size_t n : b.negatives(a)) {
        const Tensor d = b.square(a, n);
        const bool beyond = b.value(d) > b.value(b.square(a, p));
        if (beyond && (!nearest.defined() || b.value(d) < b.value(nearest))) nearest = d;
      }
      if (nearest.defined()) sum = sum + hinge(b.square(a, p) - nearest + margin);
    }
    return sum / static_cast<double>(b.positives(a).size());
  };
}

AnchorLoss batch_hard(double margin) {
  return [=](const Batch& b, size_t a) {
    Tensor furthest, nearest;
    for (const size_t p : b.positives(a))
      if (const Tensor d = b.square(a, p); !furthest.defined() || b.value(d) > b.value(furthest))
        furthest = d;
    for (const size_t n : b.negatives(a))
      if (const Tensor d = b.square(a, n); !nearest.defined() || b.value(d) < b.value(nearest))
        nearest = d;
    return nearest.defined() ? hinge(furthest - nearest + margin) : zero();
  };
}

AnchorLoss batch_all(double margin) {
  return [=](const Batch& b, size_t a) {
    Tensor sum = zero();
    int triplets = 0;
    for (const size_t p : b.positives(a))
      for (const size_t n : b.negatives(a)) {
        sum = sum + hinge(b.square(a, p) - b.square(a, n) + margin);
        ++triplets;
      }
    return sum / std::max(triplets, 1);
  };
}

AnchorLoss contrastive(double margin) {
  return [=](const Batch& b, size_t a) {
    Tensor together = zero(), apart = zero();
    const Rows positives = b.positives(a), negatives = b.negatives(a);
    for (const size_t p : positives) together = together + b.square(a, p) / 2;
    for (const size_t n : negatives)
      if (b.value(b.square(a, n)) > 1e-12)
        apart = apart + hinge(margin - b.square(a, n).sqrt()).square() / 2;
      else
        apart = apart + std::pow(margin - 1e-6, 2) / 2;
    return together / static_cast<double>(positives.size()) +
           apart / static_cast<double>(std::max<size_t>(negatives.size(), 1));
  };
}

AnchorLoss multi_similarity(double alpha, double beta, double base, double epsilon) {
  return [=](const Batch& b, size_t a) {
    double smallest = INFINITY, largest = -INFINITY;
    for (const size_t p : b.positives(a)) smallest = std::min(smallest, b.value(b.cosine(a, p)));
    for (const size_t n : b.negatives(a)) largest = std::max(largest, b.value(b.cosine(a, n)));
    Tensor of_positives = zero(), of_negatives = zero();
    for (const size_t p : b.positives(a))
      if (const Tensor s = b.cosine(a, p); b.value(s) < largest + epsilon)
        of_positives = of_positives + (-alpha * (s - base)).exp();
    for (const size_t n : b.negatives(a))
      if (const Tensor s = b.cosine(a, n); b.value(s) > smallest - epsilon)
        of_negatives = of_negatives + (beta * (s - base)).exp();
    return of_positives.log1p() / alpha + of_negatives.log1p() / beta;
  };
}

AnchorLoss supervised_contrastive(double temperature) {
  return [=](const Batch& b, size_t a) {
    Tensor all = zero(), sum = zero();
    for (size_t j = 0; j < b.size(); ++j)
      if (j != a) all = all + (b.cosine(a, j) / temperature).exp();
    const Rows positives = b.positives(a);
    for (const size_t p : positives) sum = sum - ((b.cosine(a, p) / temperature).exp() / all).log();
    return sum / static_cast<double>(positives.size());
  };
}

AnchorLoss circle(double margin, double scale) {
  return [=](const Batch& b, size_t a) {
    const auto weight = [&](const char* kind, size_t j, const Tensor& value) {
      return b.held(fmt::format("{} {} {}", kind, a, j), hinge(value));
    };
    Tensor sum = zero();
    for (const size_t p : b.positives(a))
      for (const size_t n : b.negatives(a)) {
        const Tensor s_p = b.cosine(a, p), s_n = b.cosine(a, n);
        sum = sum + (scale * (weight("n", n, s_n + margin) * (s_n - margin) -
                              weight("p", p, 1 + margin - s_p) * (s_p - (1 - margin))))
                        .exp();
      }
    return sum.log1p();
  };
}

struct PairCase {
  std::string name, yaml;
  AnchorLoss formula;
  std::shared_ptr<PairLoss> make() const { return PairLosses::get().create(Config::parse(yaml)); }
  std::string loss() const { return Config::parse(yaml).name(); }
};
void PrintTo(const PairCase& c, std::ostream* out) { *out << c.name; }

std::vector<PairCase> cases() {
  return {
      {"triplet", "{name: triplet}", semihard(0.2)},
      {"triplet_wide", "{name: triplet, margin: 1.1}", semihard(1.1)},
      {"triplet_hard", "{name: triplet, mining: hard, margin: 0.3}", batch_hard(0.3)},
      {"triplet_all", "{name: triplet, mining: all}", batch_all(0.2)},
      {"contrastive", "{name: contrastive}", contrastive(1)},
      {"contrastive_wide", "{name: contrastive, margin: 1.6}", contrastive(1.6)},
      {"multi_similarity", "{name: multi_similarity}", multi_similarity(2, 50, 0.5, 0.1)},
      {"multi_similarity_every_pair",
       "{name: multi_similarity, alpha: 3, beta: 20, base: 0.2, epsilon: 2}",
       multi_similarity(3, 20, 0.2, 2)},
      {"supervised_contrastive", "{name: supervised_contrastive}", supervised_contrastive(0.1)},
      {"supervised_contrastive_warm", "{name: supervised_contrastive, temperature: 0.5}",
       supervised_contrastive(0.5)},
      {"circle_pair", "{name: circle_pair}", circle(0.25, 256)},
      {"circle_pair_retrieval", "{name: circle_pair, margin: 0.4, scale: 80}", circle(0.4, 80)}};
}

// ---- a problem, solved by the loops and by ranks

struct PairProblem {
  Tensor x;  // [N, D]
  std::vector<int64_t> label;
};

Tensor normals(int64_t rows, int64_t dim, uint64_t key) {
  Tensor out = torch::empty({rows, dim}, torch::kDouble);
  Random random(key);
  for (int64_t i = 0; i < out.numel(); ++i) out.data_ptr<double>()[i] = random.normal();
  return out;
}

// 13 rows of unequal norms around the centres of four identities of 2 to 4 images, not together,
// and two rows without a positive.
PairProblem make_pair_problem(uint64_t seed) {
  PairProblem problem{normals(13, 4, random_key(seed, 1)),
                      {7, 0, 3, 7, 3, 11, 3, 0, 5, 2, 2, 3, 0}};
  const Tensor centres = normals(12, 4, random_key(seed, 2));
  problem.x = (problem.x + centres.index_select(0, torch::tensor(problem.label))) *
              (torch::arange(13, torch::kDouble) + 0.5).unsqueeze(1);
  return problem;
}

struct PairSolution {
  double loss = 0, same_cosine = 0, other_cosine = 0;
  int64_t anchors = 0;
  Tensor by_x;  // of the loss, true gradients
};

PairSolution solve_by_loops(const PairCase& c, const PairProblem& problem, Held& held) {
  PairSolution all;
  const Tensor x = problem.x.clone().set_requires_grad(true);
  const Batch batch(x, problem.label, held);
  const auto mean = [&](size_t a, const Rows& rows) {
    double sum = 0;
    for (const size_t j : rows) sum += batch.value(batch.cosine(a, j));
    return rows.empty() ? 0 : sum / static_cast<double>(rows.size());
  };
  Tensor sum = 0 * x.sum();
  for (size_t a = 0; a < batch.size(); ++a) {
    if (batch.positives(a).empty()) continue;
    ++all.anchors;
    sum = sum + c.formula(batch, a);
    all.same_cosine += mean(a, batch.positives(a));
    all.other_cosine += mean(a, batch.negatives(a));
  }
  sum = sum / std::max<double>(1, static_cast<double>(all.anchors));
  sum.backward();
  all.loss = sum.item<double>();
  all.by_x = x.grad();
  return all;
}

// Each rank has its rows by slice_of and back-propagates size() times its share, as the trainer
// does; the gradient's average over ranks is the true one.
PairSolution solve_by_ranks(const PairCase& c, const PairProblem& problem, int size) {
  PairSolution all;
  all.by_x = torch::full_like(problem.x, NAN);
  std::mutex lock;
  const Tensor label = torch::tensor(problem.label);
  run_thread_ranks(size, [&](Communicator& comm) {
    ASSERT_EQ(comm.size(), size);
    const auto loss = c.make();
    const Slice mine = slice_of(problem.x.size(0), comm.rank(), size);
    const Tensor x = problem.x.slice(0, mine.begin, mine.end).clone().set_requires_grad(true);
    const PairLabels labels = gather_pair_labels(label.slice(0, mine.begin, mine.end), comm);
    const PairSums sums = sum_pair_loss(*loss, x, labels, comm);
    const auto count = static_cast<double>(std::max<int64_t>(1, labels.anchors_of_ranks));
    (size * sums.loss / count).backward();
    const std::lock_guard guard(lock);
    all.anchors += labels.anchors;
    all.loss += sums.loss.item<double>() / count;
    all.same_cosine += sums.same_cosine.item<double>();
    all.other_cosine += sums.other_cosine.item<double>();
    all.by_x.slice(0, mine.begin, mine.end).copy_(x.grad() / size);
  });
  return all;
}

void expect_equal(const PairSolution& a, const PairSolution& b) {
  EXPECT_EQ(a.anchors, b.anchors);
  EXPECT_NEAR(a.loss, b.loss, 1e-9 * std::max(1.0, std::abs(b.loss)));
  EXPECT_NEAR(a.same_cosine, b.same_cosine, 1e-9);
  EXPECT_NEAR(a.other_cosine, b.other_cosine, 1e-9);
  EXPECT_LE(difference(a.by_x, b.by_x), 1e-9);
}

class PairConformance : public ::testing::TestWithParam<PairCase> {};

TEST_P(PairConformance, EqualsItsFormulaAtEveryWorldSize) {
  for (const uint64_t seed : {1, 2, 3}) {
    const PairProblem problem = make_pair_problem(seed);
    Held held;
    const PairSolution expected = solve_by_loops(GetParam(), problem, held);
    ASSERT_EQ(expected.anchors, 11);
    ASSERT_GT(expected.loss, 1e-3);
    ASSERT_GT(expected.by_x.abs().max().item<double>(), 1e-3);
    for (const int size : {1, 2, 3, 4}) {
      SCOPED_TRACE(fmt::format("seed {} at {} ranks", seed, size));
      expect_equal(solve_by_ranks(GetParam(), problem, size), expected);
    }
  }
}

TEST_P(PairConformance, GradientsAreCentralDifferences) {
  const PairProblem problem = make_pair_problem(4);
  Held held;
  solve_by_loops(GetParam(), problem, held);
  const PairSolution found = solve_by_ranks(GetParam(), problem, 2);
  const auto loss_at = [&](const Tensor& x) {
    return solve_by_loops(GetParam(), {x, problem.label}, held).loss;
  };
  for (int k = 0; k < 4; ++k) {
    const Tensor dx =
        torch::cos(torch::arange(problem.x.numel(), torch::kDouble) * (1.3 + k)).view_as(problem.x);
    const double h = 1e-6;
    const double slope = (loss_at(problem.x + h * dx) - loss_at(problem.x - h * dx)) / (2 * h);
    EXPECT_NEAR((found.by_x * dx).sum().item<double>(), slope, 1e-6 * std::max(1.0, slope));
  }
}

// Formula and ranks agree, and everything is finite, on batches that lack something.
TEST_P(PairConformance, OddBatches) {
  const PairProblem usual = make_pair_problem(5);
  const auto solve = [&](const PairProblem& problem) {
    Held held;
    const PairSolution expected = solve_by_loops(GetParam(), problem, held);
    for (const int size : {1, 3}) {
      const PairSolution found = solve_by_ranks(GetParam(), problem, size);
      EXPECT_TRUE(std::isfinite(found.loss));
      expect_equal(found, expected);
    }
    return expected;
  };
  {
    SCOPED_TRACE("one identity only");
    EXPECT_EQ(solve({usual.x, std::vector<int64_t>(13, 4)}).anchors, 13);
  }
  {
    SCOPED_TRACE("no pair at all");
    std::vector<int64_t> different(13);
    std::iota(different.begin(), different.end(), 0);
    const PairSolution none = solve({usual.x, different});
    EXPECT_EQ(none.anchors, 0);
    EXPECT_EQ(none.loss, 0);
  }
}

// Equal rows of one identity and of two, equal distances, a row of zeros: the derivative may be any
// of several, but it is finite, and the loss is that of the formula at any world size.
TEST_P(PairConformance, EqualRowsHaveFiniteGradients) {
  const Tensor corners = torch::eye(3, torch::kDouble);
  const PairProblem problem{corners.index_select(0, torch::tensor({0, 0, 1, 0, 1, 2, 2, 1, 0})),
                            {0, 0, 0, 1, 1, 1, 2, 2, 2}};
  Held held;
  const double expected = solve_by_loops(GetParam(), problem, held).loss;
  std::vector<Tensor> gradients;
  for (const int size : {1, 2, 3, 4}) {
    const PairSolution found = solve_by_ranks(GetParam(), problem, size);
    EXPECT_NEAR(found.loss, expected, 1e-9 * std::max(1.0, expected));
    EXPECT_TRUE(found.by_x.isfinite().all().item<bool>());
    gradients.push_back(found.by_x);
  }
  for (const Tensor& other : gradients) EXPECT_LE(difference(other, gradients[0]), 1e-9);

  PairProblem with_zero = make_pair_problem(6);
  with_zero.x[3].zero_();
  const PairSolution found = solve_by_ranks(GetParam(), with_zero, 2);
  EXPECT_TRUE(std::isfinite(found.loss));
  EXPECT_TRUE(found.by_x.isfinite().all().item<bool>());
}

TEST_P(PairConformance, OneRowIsNoPair) {
  const PairSolution found =
      solve_by_ranks(GetParam(), {torch::ones({1, 3}, torch::kDouble), {2}}, 1);
  EXPECT_EQ(found.anchors, 0);
  EXPECT_EQ(found.loss, 0);
  EXPECT_EQ(found.by_x.abs().max().item<double>(), 0);
}

// Whatever mining would have left out: the step must be skipped on every rank.
TEST_P(PairConformance, WhatIsNotFiniteShowsOnEveryRank) {
  for (const double bad : {std::nan(""), std::numeric_limits<double>::infinity()}) {
    PairProblem problem = make_pair_problem(7);
    problem.x[8][1] = bad;  // the row without a positive
    run_thread_ranks(3, [&](Communicator& comm) {
      ASSERT_EQ(comm.size(), 3);
      const Slice mine = slice_of(13, comm.rank(), comm.size());
      const PairLabels labels =
          gather_pair_labels(torch::tensor(problem.label).slice(0, mine.begin, mine.end), comm);
      const PairSums sums =
          sum_pair_loss(*GetParam().make(), problem.x.slice(0, mine.begin, mine.end), labels, comm);
      EXPECT_FALSE(std::isfinite(sums.loss.item<double>())) << comm.rank();
    });
  }
}

// Under autocast too everything is fp32; bf16 embeddings are widened first.
TEST_P(PairConformance, NarrowTypesAreWidened) {
  const PairProblem problem = make_pair_problem(8);
  const auto comm = make_thread_comms(1)[0];
  const auto loss = GetParam().make();
  const PairLabels labels = gather_pair_labels(torch::tensor(problem.label), *comm);
  const Tensor narrow = problem.x.to(torch::kBFloat16);
  const Tensor plain = sum_pair_loss(*loss, narrow.to(torch::kFloat), labels, *comm).loss;
  at::autocast::set_autocast_enabled(at::kCPU, true);
  const Tensor found = sum_pair_loss(*loss, narrow, labels, *comm).loss;
  at::autocast::set_autocast_enabled(at::kCPU, false);
  EXPECT_EQ(found.scalar_type(), torch::kFloat);
  EXPECT_TRUE(torch::equal(found, plain));
  Held held;
  const double expected =
      solve_by_loops(GetParam(), {narrow.to(torch::kDouble), problem.label}, held).loss * 11;
  EXPECT_NEAR(found.item<double>(), expected, 1e-4 * std::max(1.0, expected));
}

INSTANTIATE_TEST_SUITE_P(Registered, PairConformance, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST(PairRegistry, EveryPairLossHasAFormulaInTheSuite) {
  std::set<std::string> covered;
  for (const PairCase& c : cases()) covered.insert(c.loss());
  const auto names = PairLosses::get().names();
  EXPECT_EQ(std::set<std::string>(names.begin(), names.end()), covered);
}

TEST(PairRegistry, OptionsAreChecked) {
  const auto message = [](const std::string& yaml) {
    return error_of([&] { PairLosses::get().create(Config::parse(yaml)); });
  };
  expect_parts(message("{name: tripplet}"), {"unknown pair loss", "did you mean 'triplet'?"});
  expect_parts(message("{name: triplet, mining: easy}"), {"mining", "easy"});
  expect_parts(message("{name: contrastive, margin: 3}"), {"margin"});
  expect_parts(message("{name: circle_pair, gamma: 80}"), {"gamma"});
}

TEST(PairLabelsTest, ARowWithoutIdentityIsAnErrorOnEveryRank) {
  expect_error(
      [] {
        run_thread_ranks(2, [](Communicator& comm) {
          gather_pair_labels(torch::full({2}, comm.rank() == 1 ? -1 : 3, torch::kLong), comm);
        });
      },
      {"labels of at least 0, found -1"});
}

// Three rows of the plane with cosines 0.6 (the pair), 0 and 0.8, squared distances 0.8, 2 and 0.4,
// worked out by hand. The first two are anchors.
double by_hand(const std::string& yaml) {
  const PairCase c{"", yaml, {}};
  return solve_by_ranks(
             c, {torch::tensor({{5., 0.}, {0.6, 0.8}, {0., 2.}}, torch::kDouble), {1, 1, 0}}, 2)
      .loss;
}

TEST(PairLossByHand, Triplet) {
  // The second anchor's negative is nearer than its positive: no semi-hard triplet.
  EXPECT_NEAR(by_hand("{name: triplet}"), 0, 1e-12);
  EXPECT_NEAR(by_hand("{name: triplet, margin: 1.5}"), (0.8 - 2 + 1.5) / 2, 1e-12);
  EXPECT_NEAR(by_hand("{name: triplet, mining: hard}"), (0 + 0.6) / 2, 1e-12);
  EXPECT_NEAR(by_hand("{name: triplet, mining: all, margin: 1.5}"), (0.3 + 1.9) / 2, 1e-12);
}

TEST(PairLossByHand, Contrastive) {
  const double apart = 1 - std::sqrt(0.4);
  EXPECT_NEAR(by_hand("{name: contrastive}"), (0.4 + 0.4 + apart * apart / 2) / 2, 1e-12);
}

TEST(PairLossByHand, MultiSimilarity) {
  // The first anchor's pairs are easier than ε asks for.
  const double second = std::log1p(std::exp(-0.2)) / 2 + std::log1p(std::exp(15)) / 50;
  EXPECT_NEAR(by_hand("{name: multi_similarity}"), second / 2, 1e-12);
}

TEST(PairLossByHand, SupervisedContrastive) {
  const double first = std::log1p(std::exp(-6)), second = 2 + std::log1p(std::exp(-2));
  EXPECT_NEAR(by_hand("{name: supervised_contrastive}"), (first + second) / 2, 1e-12);
}

TEST(PairLossByHand, CirclePair) {
  // α_p 0.65; α_n 0.25 and 1.05: exponents 24.96 - 16 and 24.96 + 147.84.
  EXPECT_NEAR(by_hand("{name: circle_pair}"), (std::log1p(std::exp(8.96)) + 172.8) / 2, 1e-9);
}

}  // namespace
}  // namespace facetrain::testing
