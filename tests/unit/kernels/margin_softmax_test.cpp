// The element-wise passes against composites of ATen calls in float64, for every rule and
// reduction, over chunks with the target inside, outside, and alone; and the polynomial exponential
// against the exact one.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/check.h"
#include "core/torch.h"
#include "kernels/lanes.h"
#include "kernels/ops.h"
#include "tests/support/kernel_cases.h"

namespace facetrain {
namespace {

using torch::Tensor;

// Distance in units in the last place of the exact result.
double ulps(float found, double exact) {
  const float nearest = static_cast<float>(exact);
  const double unit =
      std::nextafter(std::abs(nearest), std::numeric_limits<float>::infinity()) - std::abs(nearest);
  return std::abs(found - exact) / unit;
}

TEST(Lanes, ExponentialIsWithinTwoUlp) {
  double worst = 0;
  for (double x = -87.2; x < 88; x += 0.000731) {
    const float at = static_cast<float>(x);
    worst = std::max(
        worst, ulps(kernels::exp_of(kernels::Floats{} + at)[3], std::exp(static_cast<double>(at))));
  }
  EXPECT_LE(worst, 2.0);
  EXPECT_EQ(kernels::exp_of(kernels::Floats{})[0], 1.0f);
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(kernels::exp_of(kernels::Floats{} - infinity)[0], 0.0f);
  EXPECT_EQ(kernels::exp_of(kernels::Floats{} - 1000.0f)[7], 0.0f);
  EXPECT_TRUE(std::isnan(kernels::exp_of(kernels::Floats{} + NAN)[1]));
}

// Cosines [7, n] in (-1, 1) that differ everywhere.
Tensor cosines_of(int64_t columns) {
  return torch::sin(torch::arange(7 * columns, torch::kDouble) * 1.7 + 0.3)
      .mul(0.93)
      .view({7, columns});
}

struct Setting {
  kernels::RowRule rule;
  RowVectors rows;
};

Setting make_setting(NegativeRule negative, RowReduction reduction, int64_t columns,
                     int64_t first) {
  Setting s;
  s.rule = {negative, reduction, 1.3, 0.4, 7.0, 1.2};
  const Tensor row = torch::arange(7, torch::kDouble);
  s.rows.scale = 6 + row;
  s.rows.shift = 0.3 * row - 1;
  s.rows.p0 = 0.1 * row - 0.35;
  s.rows.p1 = 0.05 * row;
  // -1, before, first, last, after, inside, inside.
  s.rows.target = torch::tensor({int64_t{-1}, first - 1, first, first + columns - 1,
                                 first + columns, first + columns / 2, first + columns / 3});
  return s;
}

// v and dv/dc of kernels/margin_rules.h, in ATen calls.
std::pair<Tensor, Tensor> change(const Setting& s, const Tensor& c) {
  const double a = s.rule.a, b = s.rule.b;
  const Tensor p0 = s.rows.p0.unsqueeze(1), p1 = s.rows.p1.unsqueeze(1), one = torch::ones_like(c),
               above = c > p0;
  switch (s.rule.negative) {
    case NegativeRule::kNone:
      return {c, one};
    case NegativeRule::kAffineAbove:
      return {torch::where(above, a * c + b, c), torch::where(above, one * a, one)};
    case NegativeRule::kCurricular:
      return {torch::where(above, c * (p1 + c), c), torch::where(above, p1 + 2 * c, one)};
    case NegativeRule::kGaussian: {
      const Tensor t = a * (-(c - p0).square() / b).exp();
      return {t * c + t - 1, t};
    }
    case NegativeRule::kCircle:
      return {torch::relu(c + a) * (c - a), torch::relu(c + a)};
    case NegativeRule::kAngleDivide:
      return {(c.acos() / a).cos(), one};
    case NegativeRule::kPower:
      return {2 * ((c + 1) / 2).pow(a) - 1 + b, one};
  }
  return {};
}

Tensor target_mask(const Setting& s, int64_t columns, int64_t first) {
  return s.rows.target.unsqueeze(1) == torch::arange(first, first + columns).unsqueeze(0);
}

struct Sums {
  Tensor sum, weight, value;
  Tensor weights;  // [7, n] derivative of the row's term by the logit
};
// `log_sum` is what softmax weights are relative to.
Sums composite(const Setting& s, const Tensor& c, int64_t first, const Tensor& log_sum) {
  const Tensor v = change(s, c).first,
               l = s.rows.scale.unsqueeze(1) * v + s.rows.shift.unsqueeze(1);
  const Tensor out = target_mask(s, c.size(1), first);
  Tensor term, weight;
  if (s.rule.reduction == RowReduction::kSoftmax) {
    term = weight = (l - log_sum.unsqueeze(1)).exp();
  } else if (s.rule.reduction == RowReduction::kSoftplusSum) {
    term = torch::log1p(l.exp());
    weight = torch::sigmoid(l);
  } else {
    weight = torch::sigmoid(s.rule.gate_slope * (s.rule.gate_centre - c.acos()));
    term = weight * l;
  }
  weight = weight.masked_fill(out, 0);
  return {term.masked_fill(out, 0).sum(1), weight.sum(1), (weight * v).sum(1), weight};
}

RowVectors to_type(const RowVectors& rows, torch::ScalarType type) {
  return {rows.scale.to(type), rows.shift.to(type), rows.p0.to(type), rows.p1.to(type),
          rows.target};
}

class MarginKernels
    : public ::testing::TestWithParam<std::tuple<NegativeRule, RowReduction, torch::ScalarType>> {
 protected:
  NegativeRule negative() const { return std::get<0>(GetParam()); }
  RowReduction reduction() const { return std::get<1>(GetParam()); }
  torch::ScalarType type() const { return std::get<2>(GetParam()); }
  double tolerance() const { return type() == torch::kDouble ? 1e-12 : 2e-5; }
  void expect_near(const Tensor& found, const Tensor& expected, double tolerance) const {
    const Tensor error = (found.to(torch::kDouble) - expected).abs() / expected.abs().clamp_min(1);
    EXPECT_LE(error.max().item<double>(), tolerance);
  }
};

TEST_P(MarginKernels, SumsOverTheNegatives) {
  for (const int64_t columns : {1, 3, 8, 37, 300}) {
    SCOPED_TRACE(columns);
    const int64_t first = 11;
    const Setting s = make_setting(negative(), reduction(), columns, first);
    const Tensor c = cosines_of(columns);
    RowSums sums = RowSums::start(7, torch::TensorOptions(type()));
    add_row_sums(c.to(type()), first, s.rule, to_type(s.rows, type()), sums);
    const Tensor some = (target_mask(s, columns, first).sum(1) < columns);  // rows with a negative
    const Tensor base =
        torch::where(some, sums.maximum.to(torch::kDouble), torch::zeros({7}, torch::kDouble));
    const Sums expected = composite(s, c, first, base);
    expect_near(sums.sum, expected.sum, tolerance());
    expect_near(sums.weight_sum, expected.weight, tolerance());
    expect_near(sums.value_sum, expected.value, tolerance());
    if (reduction() == RowReduction::kSoftmax) {
      EXPECT_TRUE(sums.maximum.masked_select(some.logical_not()).isinf().all().item<bool>());
    }
  }
}

TEST_P(MarginKernels, ChunksAddUpToTheWhole) {
  const Setting s = make_setting(negative(), reduction(), 100, 0);
  const Tensor c = cosines_of(100);
  RowSums whole = RowSums::start(7, torch::TensorOptions(type())),
          parts = RowSums::start(7, torch::TensorOptions(type()));
  const RowVectors rows = to_type(s.rows, type());
  add_row_sums(c.to(type()), 0, s.rule, rows, whole);
  for (const auto& [begin, end] :
       std::vector<std::pair<int64_t, int64_t>>{{0, 1}, {1, 33}, {33, 50}, {50, 51}, {51, 100}})
    add_row_sums(c.slice(1, begin, end).contiguous().to(type()), begin, s.rule, rows, parts);
  expect_near(parts.sum, whole.sum.to(torch::kDouble), tolerance());
  expect_near(parts.weight_sum, whole.weight_sum.to(torch::kDouble), tolerance());
  expect_near(parts.value_sum, whole.value_sum.to(torch::kDouble), tolerance());
  if (reduction() == RowReduction::kSoftmax) {
    EXPECT_TRUE(torch::equal(parts.maximum, whole.maximum));
  }
}

TEST_P(MarginKernels, Gradients) {
  for (const int64_t columns : {1, 5, 8, 61}) {
    SCOPED_TRACE(columns);
    const int64_t first = 4;
    const Setting s = make_setting(negative(), reduction(), columns, first);
    const Tensor c = cosines_of(columns);
    const Tensor log_sum = 9 + 0.5 * torch::arange(7, torch::kDouble),
                 coefficient = 0.2 + torch::arange(7, torch::kDouble);
    const Tensor by_target = -3 - torch::arange(7, torch::kDouble);
    const Sums sums = composite(s, c, first, log_sum - 0 * s.rows.shift);
    const Tensor expected =
        torch::where(target_mask(s, columns, first), by_target.unsqueeze(1),
                     coefficient.unsqueeze(1) * sums.weights * change(s, c).second);
    const Tensor from = c.to(type());
    const auto run = [&](const Tensor& in, const Tensor& out) {
      row_gradients(in, out, first, s.rule, to_type(s.rows, type()), coefficient.to(type()),
                    log_sum.to(type()), by_target.to(type()));
    };
    const Tensor out = torch::empty_like(from);
    run(from, out);
    expect_near(out, expected, tolerance());
    if (type() == torch::kFloat) {  // the same numbers, rounded to nearest
      const Tensor narrow = torch::empty_like(from, torch::kBFloat16);
      run(from, narrow);
      EXPECT_TRUE(torch::equal(narrow, out.to(torch::kBFloat16)));
    }
    const Tensor place = from.clone();
    run(place, place);
    EXPECT_TRUE(torch::equal(place, out));
  }
}

INSTANTIATE_TEST_SUITE_P(Rules, MarginKernels, every_margin_kernel());

TEST(MarginPrepass, CountsAndAddsNegativesAboveTheThreshold) {
  for (const auto type : {torch::kFloat, torch::kDouble}) {
    const Setting s = make_setting(NegativeRule::kNone, RowReduction::kSoftmax, 45, 3);
    const Tensor c = cosines_of(45).to(type), threshold = s.rows.p0.to(type);
    const Tensor sum = torch::ones({7}, type), count = torch::ones({7}, type);
    add_selected(c, 3, threshold, s.rows.target, sum, count);
    const Tensor in =
        (c > threshold.unsqueeze(1)).logical_and(target_mask(s, 45, 3).logical_not()).to(type);
    EXPECT_LE((sum - 1 - (in * c).sum(1)).abs().max().item<double>(), 1e-5);
    EXPECT_TRUE(torch::equal(count - 1, in.sum(1)));
  }
}

TEST(MarginKernels, ANonFiniteRowStaysAloneAndNonFinite) {
  Tensor c = cosines_of(40).to(torch::kFloat);
  c[2][17] = NAN;
  c[4].fill_(NAN);
  const Setting s = make_setting(NegativeRule::kNone, RowReduction::kSoftmax, 40, 100);
  RowSums sums = RowSums::start(7, torch::TensorOptions(torch::kFloat));
  add_row_sums(c, 0, s.rule, to_type(s.rows, torch::kFloat), sums);
  const Tensor finite = sums.sum.isfinite();
  for (int64_t b = 0; b < 7; ++b) EXPECT_EQ(finite[b].item<bool>(), b != 2 && b != 4) << b;
}

TEST(UnitRows, NormaliseAndProject) {
  for (const auto type : {torch::kFloat, torch::kDouble}) {
    const double tolerance = type == torch::kDouble ? 1e-13 : 2e-6;
    for (const int64_t dim : {1, 5, 32, 67}) {
      Tensor weight =
          torch::sin(torch::arange(9 * dim, torch::kDouble)).view({9, dim}).to(type) + 0.01;
      const Tensor ids = torch::tensor({int64_t{0}, int64_t{2}});
      const RowRange range{ids, 0, 3};  // rows 0, 1, 2 and 6, 7, 8
      const Tensor chosen =
          weight.index_select(0, torch::tensor({0, 1, 2, 6, 7, 8})).set_requires_grad(true);
      const Tensor unit = torch::empty({6, dim}, type), inverse = torch::empty({6}, type);
      unit_rows(weight, range, true, unit, inverse);
      const Tensor expected = chosen / chosen.norm(2, 1, true);
      EXPECT_LE((unit - expected).abs().max().item<double>(), tolerance);
      const Tensor gradient =
          torch::cos(torch::arange(6 * dim, torch::kDouble)).view({6, dim}).to(type);
      (expected * gradient).sum().backward();
      const Tensor out = torch::ones({6, dim}, type);
      project_rows(weight, range, inverse, gradient, out, true);
      const Tensor scale = chosen.grad().abs().clamp_min(1);
      EXPECT_LE(((out - 1 - chosen.grad()) / scale).abs().max().item<double>(), 50 * tolerance);
      project_rows(weight, range, inverse, gradient, out, false);
      EXPECT_LE(((out - chosen.grad()) / scale).abs().max().item<double>(), 50 * tolerance);
      if (type != torch::kFloat) continue;
      const Tensor narrow = torch::empty({6, dim}, torch::kBFloat16);
      unit_rows(weight, range, true, narrow, inverse);
      EXPECT_TRUE(torch::equal(narrow, unit.to(torch::kBFloat16)));
    }
  }
}

struct MatmulCase {
  torch::ScalarType type;
  int64_t rows, inner, columns;
};
class Matmul : public ::testing::TestWithParam<MatmulCase> {};
TEST_P(Matmul, TransposedViewsAndAccumulation) {
  const auto [type, rows, inner, columns] = GetParam();
  const Tensor a = torch::sin(torch::arange(rows * inner, torch::kDouble)).view({rows, inner});
  const Tensor b =
      torch::cos(torch::arange(inner * columns, torch::kDouble)).view({inner, columns});
  const auto sums = type == torch::kDouble ? torch::kDouble : torch::kFloat;
  // Products of bf16 are exact in fp32, so only the rounding of the factors counts.
  const Tensor left = a.to(type), right = b.to(type);
  const Tensor expected = left.to(torch::kDouble).mm(right.to(torch::kDouble));
  const Tensor right_t = right.t().contiguous(), left_t = left.t().contiguous();
  for (const auto& [l, r] : std::vector<std::pair<Tensor, Tensor>>{
           {left, right}, {left, right_t.t()}, {left_t.t(), right}}) {
    const Tensor out = torch::full({rows, columns}, NAN, sums);
    matmul(l, r, out, false);
    EXPECT_LE((out - expected).abs().max().item<double>(), 1e-6);
    matmul(l, r, out, true);
    EXPECT_LE((out - 2 * expected).abs().max().item<double>(), 1e-6);
  }
}
// A single row or column has the strides of both forms.
INSTANTIATE_TEST_SUITE_P(
    Shapes, Matmul, ::testing::ValuesIn([] {
      std::vector<MatmulCase> cases;
      for (const auto type : {torch::kFloat, torch::kDouble, torch::kBFloat16})
        for (const auto& [rows, inner, columns] : std::vector<std::array<int64_t, 3>>{
                 {6, 5, 4}, {1, 5, 4}, {6, 1, 4}, {6, 5, 1}, {1, 5, 1}, {1, 1, 4}, {1, 1, 1}})
          cases.push_back({type, rows, inner, columns});
      return cases;
    }()),
    [](const auto& info) {
      return fmt::format("{}_{}x{}x{}", toString(info.param.type), info.param.rows,
                         info.param.inner, info.param.columns);
    });

TEST(Ops, WrongShapesAndTypesAreErrors) {
  RowSums sums = RowSums::start(3, torch::TensorOptions(torch::kFloat));
  const Tensor c = torch::zeros({3, 4});
  EXPECT_THROW(add_row_sums(c.t(), 0, {}, {}, sums), Error);
  EXPECT_THROW(add_row_sums(c.to(torch::kHalf), 0, {}, {}, sums), Error);
  RowVectors rows;
  rows.scale = torch::ones({2});
  EXPECT_THROW(add_row_sums(c, 0, {}, rows, sums), Error);
}

}  // namespace
}  // namespace facetrain
