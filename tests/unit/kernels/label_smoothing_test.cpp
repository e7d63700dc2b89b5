// What label smoothing asks of the kernels: Σ v over the negatives, and a constant taken from the
// weight of each negative's gradient; for every rule and reduction, in float64 and fp32.
#include <gtest/gtest.h>

#include "core/torch.h"
#include "kernels/ops.h"
#include "tests/support/kernel_cases.h"

namespace facetrain {
namespace {

using torch::Tensor;

constexpr int64_t kRows = 7, kFirst = 5;

class PlainKernels
    : public ::testing::TestWithParam<std::tuple<NegativeRule, RowReduction, torch::ScalarType>> {
 protected:
  kernels::RowRule rule() const {
    return {std::get<0>(GetParam()), std::get<1>(GetParam()), 1.3, 0.4, 7.0, 1.2};
  }
  torch::ScalarType type() const { return std::get<2>(GetParam()); }
  double tolerance() const { return type() == torch::kDouble ? 1e-12 : 2e-5; }
  // Row b's target: none, before the chunk, inside (five of them, the first and last column too).
  RowVectors rows(int64_t columns) const {
    const Tensor row = torch::arange(kRows, type());
    RowVectors all{4 + row, 0.3 * row - 1, 0.1 * row - 0.35, 0.05 * row, {}};
    all.target = torch::tensor({int64_t{-1}, kFirst - 1, kFirst, kFirst + columns - 1,
                                kFirst + columns / 2, kFirst + columns / 3, kFirst + columns});
    return all;
  }
  Tensor cosines(int64_t columns) const {
    return torch::sin(torch::arange(kRows * columns, torch::kDouble) * 1.7 + 0.3)
        .mul(0.93)
        .view({kRows, columns})
        .to(type());
  }
  void expect_near(const Tensor& found, const Tensor& wanted) const {
    const Tensor error =
        (found - wanted).to(torch::kDouble).abs() / wanted.to(torch::kDouble).abs().clamp_min(1);
    EXPECT_LE(error.max().item<double>(), tolerance());
  }
};

// v of every cosine: Σ v of a chunk of one column without a target.
Tensor values_of(const kernels::RowRule& rule, RowVectors rows, const Tensor& c) {
  rows.target = Tensor();
  std::vector<Tensor> columns;
  for (int64_t j = 0; j < c.size(1); ++j) {
    RowSums sums = RowSums::start(c.size(0), c.options());
    add_row_sums(c.slice(1, j, j + 1).contiguous(), 0, rule, rows, sums);
    columns.push_back(sums.plain_sum);
  }
  return torch::stack(columns, 1);
}

Tensor is_target(const RowVectors& rows, int64_t columns) {
  return rows.target.unsqueeze(1) == torch::arange(kFirst, kFirst + columns).unsqueeze(0);
}

TEST_P(PlainKernels, SumOfTheValuesWithoutTheTarget) {
  for (const int64_t columns : {1, 3, 8, 61, 300}) {
    SCOPED_TRACE(columns);
    const RowVectors all = rows(columns);
    const Tensor c = cosines(columns), v = values_of(rule(), all, c);
    const Tensor above = c > all.p0.unsqueeze(1);
    if (rule().negative == NegativeRule::kNone) expect_near(v, c);
    if (rule().negative == NegativeRule::kAffineAbove)
      expect_near(v, torch::where(above, 1.3 * c + 0.4, c));
    if (rule().negative == NegativeRule::kCurricular)
      expect_near(v, torch::where(above, c * (all.p1.unsqueeze(1) + c), c));
    const Tensor expected = v.masked_fill(is_target(all, columns), 0).sum(1);
    RowSums whole = RowSums::start(kRows, c.options());
    add_row_sums(c, kFirst, rule(), all, whole);
    expect_near(whole.plain_sum, expected);
    RowSums parts = RowSums::start(kRows, c.options());
    for (int64_t begin = 0; begin < columns; begin += 7) {
      const Tensor some = c.slice(1, begin, std::min(columns, begin + 7)).contiguous();
      add_row_sums(some, kFirst + begin, rule(), all, parts);
    }
    expect_near(parts.plain_sum, expected);
  }
}

TEST_P(PlainKernels, ConstantIsTakenFromEveryNegativesWeight) {
  for (const int64_t columns : {1, 8, 61}) {
    SCOPED_TRACE(columns);
    const RowVectors all = rows(columns);
    const Tensor c = cosines(columns), row = torch::arange(kRows, type());
    const Tensor log_sum = 9 + 0.5 * row, coefficient = 0.2 + row, by_target = -3 - row;
    const auto run = [&](const Tensor& factor, const Tensor& constant, const Tensor& out) {
      row_gradients(c, out, kFirst, rule(), all, factor, log_sum, by_target, constant);
      return out;
    };
    // With no weight left what remains is dv / dc.
    const Tensor none = torch::zeros_like(row), one = torch::ones_like(row);
    const Tensor slope = run(none, -one, torch::empty_like(c));
    const Tensor inside = is_target(all, columns);
    if (rule().negative == NegativeRule::kNone)
      expect_near(slope, torch::where(inside, by_target.unsqueeze(1), torch::ones_like(c)));
    if (rule().negative == NegativeRule::kCircle)
      expect_near(slope, torch::where(inside, by_target.unsqueeze(1), torch::relu(c + 1.3)));
    const Tensor constant = 0.1 + 0.07 * row;
    const Tensor expected =
        torch::where(inside, by_target.unsqueeze(1),
                     run(coefficient, {}, torch::empty_like(c)) - constant.unsqueeze(1) * slope);
    const Tensor found = run(coefficient, constant, torch::empty_like(c));
    expect_near(found, expected);
    if (type() == torch::kFloat) {
      const Tensor narrow = run(coefficient, constant, torch::empty_like(c, torch::kBFloat16));
      EXPECT_TRUE(torch::equal(narrow, found.to(torch::kBFloat16)));
    }
    expect_near(run(coefficient, none, torch::empty_like(c)),
                run(coefficient, {}, torch::empty_like(c)));
  }
}

INSTANTIATE_TEST_SUITE_P(Rules, PlainKernels, every_margin_kernel());

}  // namespace
}  // namespace facetrain
