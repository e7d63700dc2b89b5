// Every function of the CUDA kernel table against the CPU version in float64 of the same numbers:
// odd shapes, all rules and reductions, rows that are not finite, the same bits run to run.

#include <cmath>

#include "core/torch.h"
#include "kernels/ops.h"
#include "tests/gpu/gpu.h"
#include "tests/support/kernel_cases.h"

namespace facetrain {
namespace {

using torch::Tensor;

constexpr int64_t kFirst = 11;  // of the chunk's first class in the rank's list

// Different everywhere, in (-0.93, 0.93).
Tensor waves(int64_t rows, int64_t columns) {
  return torch::sin(torch::arange(rows * columns, torch::kDouble) * 1.7 + 0.3)
      .mul(0.93)
      .view({rows, columns});
}

struct Problem {
  kernels::RowRule rule;
  RowVectors rows;  // of T
  Tensor cosines, coefficient, log_sum, target_gradient;
};

RowVectors moved(const RowVectors& rows, at::ScalarType type, c10::Device device) {
  const auto move = [&](const Tensor& t) { return t.to(device, type); };
  return {move(rows.scale), move(rows.shift), move(rows.p0), move(rows.p1), rows.target.to(device)};
}
Problem moved(const Problem& p, at::ScalarType type, c10::Device device) {
  const auto move = [&](const Tensor& t) { return t.to(device, type); };
  return {p.rule,          moved(p.rows, type, device), move(p.cosines), move(p.coefficient),
          move(p.log_sum), move(p.target_gradient)};
}

// Targets: -1, before the chunk, its first column, its last, after it, and two inside.
Problem make_problem(NegativeRule negative, RowReduction reduction, int64_t rows, int64_t columns) {
  Problem p;
  p.rule = {negative, reduction, 1.3, 0.4, 7.0, 1.2};
  const Tensor row = torch::arange(rows, torch::kDouble).remainder(7);
  p.rows.scale = 6 + row;
  p.rows.shift = 0.3 * row - 1;
  p.rows.p0 = 0.1 * row - 0.35;
  p.rows.p1 = 0.05 * row;
  const Tensor targets =
      torch::tensor({int64_t{-1}, kFirst - 1, kFirst, kFirst + columns - 1, kFirst + columns,
                     kFirst + columns / 2, kFirst + columns / 3});
  p.rows.target = targets.index_select(0, torch::arange(rows).remainder(7));
  p.cosines = waves(rows, columns);
  p.coefficient = 0.2 + row;
  p.log_sum = 9 + 0.5 * row;
  p.target_gradient = -3 - row;
  return p;
}

RowSums sums_of(const Problem& p) {
  RowSums sums = RowSums::start(p.cosines.size(0), p.cosines.options());
  add_row_sums(p.cosines, kFirst, p.rule, p.rows, sums);
  return sums;
}
Tensor gradients_of(const Problem& p, const Tensor& out) {
  row_gradients(p.cosines, out, kFirst, p.rule, p.rows, p.coefficient, p.log_sum,
                p.target_gradient);
  return out;
}

using Parameter = std::tuple<NegativeRule, RowReduction, at::ScalarType>;
class Kernels : public gpu::Test, public ::testing::WithParamInterface<Parameter> {
 protected:
  at::ScalarType type() const { return std::get<2>(GetParam()); }
  double tolerance() const { return type() == torch::kDouble ? 1e-12 : 2e-5; }
  // On the device in T, and the same (rounded) numbers on the CPU in float64.
  std::pair<Problem, Problem> problems(int64_t rows, int64_t columns) const {
    const Problem p =
        moved(make_problem(std::get<0>(GetParam()), std::get<1>(GetParam()), rows, columns), type(),
              c10::kCPU);
    return {moved(p, type(), gpu::kDevice), moved(p, torch::kDouble, c10::kCPU)};
  }
  // Relative to the size of what was added up, which the sum itself may be far below.
  void expect_near(const Tensor& found, const Tensor& wanted, const Tensor& size) const {
    ASSERT_TRUE(found.is_cuda());
    const Tensor error = (found.to(c10::kCPU, torch::kDouble) - wanted).abs() /
                         torch::maximum(size.abs(), wanted.abs()).clamp_min(1);
    EXPECT_LE(error.max().item<double>(), tolerance());
  }
  template <class Body>
  void for_shapes(Body body) const {
    for (const int64_t rows : {1, 7, 128})
      for (const int64_t columns : {1, 33, 1000}) {
        SCOPED_TRACE(fmt::format("{} x {}", rows, columns));
        body(rows, columns);
      }
  }
};

TEST_P(Kernels, RowSumsAreTheCpus) {
  for_shapes([&](int64_t rows, int64_t columns) {
    const auto [device, host] = problems(rows, columns);
    const RowSums found = sums_of(device), again = sums_of(device), wanted = sums_of(host);
    expect_near(found.sum, wanted.sum, wanted.weight_sum);
    expect_near(found.weight_sum, wanted.weight_sum, wanted.weight_sum);
    expect_near(found.value_sum, wanted.value_sum, wanted.weight_sum);
    const Tensor some = wanted.maximum.isfinite();
    EXPECT_TRUE(torch::equal(found.maximum.cpu().isfinite(), some));
    expect_near(found.maximum.masked_fill(found.maximum.isinf(), 0),
                wanted.maximum.masked_fill(some.logical_not(), 0), wanted.weight_sum);
    for (const auto& [a, b] : {std::pair(found.maximum, again.maximum),
                               {found.sum, again.sum},
                               {found.weight_sum, again.weight_sum},
                               {found.value_sum, again.value_sum}})
      EXPECT_TRUE(torch::equal(a, b)) << "other bits in a second run";
  });
}

TEST_P(Kernels, SumsCarriedFromChunkToChunkAreTheWhole) {
  const auto [device, host] = problems(7, 1000);
  const RowSums wanted = sums_of(host);
  RowSums parts = RowSums::start(7, device.cosines.options());
  parts.value_sum = Tensor();  // as a pass that does not ask for it
  int64_t begin = 0;
  for (const int64_t end : {1, 300, 301, 557, 1000}) {
    add_row_sums(device.cosines.slice(1, begin, end).contiguous(), kFirst + begin, device.rule,
                 device.rows, parts);
    begin = end;
  }
  expect_near(parts.sum, wanted.sum, wanted.weight_sum);
  expect_near(parts.weight_sum, wanted.weight_sum, wanted.weight_sum);
}

TEST_P(Kernels, RowGradientsAreTheCpus) {
  for_shapes([&](int64_t rows, int64_t columns) {
    const auto [device, host] = problems(rows, columns);
    const Tensor wanted = gradients_of(host, torch::empty_like(host.cosines));
    const Tensor found = gradients_of(device, torch::full_like(device.cosines, NAN));
    expect_near(found, wanted, wanted);
    Problem in_place = device;
    in_place.cosines = device.cosines.clone();
    EXPECT_TRUE(torch::equal(gradients_of(in_place, in_place.cosines), found));
    if (type() != torch::kFloat) return;
    const Tensor narrow = torch::empty_like(found, torch::kBFloat16);
    EXPECT_TRUE(torch::equal(gradients_of(device, narrow), found.to(torch::kBFloat16)));
  });
}

INSTANTIATE_TEST_SUITE_P(Rules, Kernels, every_margin_kernel());

class KernelsOnce : public gpu::Test {};

TEST_F(KernelsOnce, MoreRowsThanAGridIsHigh) {
  const Problem host = make_problem(NegativeRule::kNone, RowReduction::kSoftmax, 70000, 3);
  const Problem device = moved(host, torch::kDouble, gpu::kDevice);
  const Tensor wanted = gradients_of(host, torch::empty_like(host.cosines));
  const Tensor found = gradients_of(device, torch::empty_like(device.cosines));
  EXPECT_TRUE(torch::allclose(found.cpu(), wanted, 1e-12, 1e-12));
  EXPECT_TRUE(torch::allclose(sums_of(device).sum.cpu(), sums_of(host).sum, 1e-12, 1e-12));
}

TEST_F(KernelsOnce, NoRowsAndNoColumnsChangeNothing) {
  for (const auto& [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{{0, 5}, {4, 0}}) {
    const Problem p =
        moved(make_problem(NegativeRule::kNone, RowReduction::kSoftmax, rows, columns),
              torch::kFloat, gpu::kDevice);
    const RowSums sums = sums_of(p);
    EXPECT_EQ(sums.sum.abs().sum().item<double>(), 0);
    EXPECT_EQ(gradients_of(p, torch::empty_like(p.cosines)).numel(), 0);
  }
}

// Which results are finite, in rows that hold a NaN, only NaNs, +inf, -inf.
TEST_F(KernelsOnce, RowsThatAreNotFiniteEndAsOnTheCpu) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const auto reduction :
       {RowReduction::kSoftmax, RowReduction::kSoftplusSum, RowReduction::kGatedSum}) {
    Problem host =
        moved(make_problem(NegativeRule::kNone, reduction, 7, 300), torch::kFloat, c10::kCPU);
    host.cosines[1][17] = NAN;
    host.cosines[2].fill_(NAN);
    host.cosines[4][299] = infinity;
    host.cosines[5][0] = -infinity;
    const Problem device = moved(host, torch::kFloat, gpu::kDevice);
    const RowSums found = sums_of(device), wanted = sums_of(host);
    EXPECT_TRUE(torch::equal(found.sum.cpu().isfinite(), wanted.sum.isfinite())) << found.sum;
    EXPECT_TRUE(torch::equal(found.value_sum.cpu().isfinite(), wanted.value_sum.isfinite()));
    for (const int64_t row : {1, 2, 4}) EXPECT_FALSE(found.sum[row].isfinite().item<bool>()) << row;
    for (const int64_t row : {0, 3, 6}) EXPECT_TRUE(found.sum[row].isfinite().item<bool>()) << row;
    for (const auto out : {torch::kFloat, torch::kBFloat16}) {
      const Tensor here = gradients_of(device, torch::empty_like(device.cosines, out));
      const Tensor there = gradients_of(host, torch::empty_like(host.cosines, out));
      EXPECT_TRUE(torch::equal(here.cpu().isnan(), there.isnan()));
    }
  }
}

TEST_F(KernelsOnce, SelectedNegativesAreTheCpus) {
  for (const auto type : {torch::kFloat, torch::kDouble})
    for (const int64_t rows : {1, 7, 128})
      for (const int64_t columns : {1, 33, 1000}) {
        const Problem host =
            moved(make_problem(NegativeRule::kNone, RowReduction::kSoftmax, rows, columns), type,
                  c10::kCPU);
        const Problem device = moved(host, type, gpu::kDevice);
        const auto run = [](const Problem& p) {
          const Tensor both = torch::ones({2, p.cosines.size(0)}, p.cosines.options());
          add_selected(p.cosines, kFirst, p.rows.p0, p.rows.target, both[0], both[1]);
          return both;
        };
        const Tensor found = run(device), wanted = run(host);
        EXPECT_TRUE(torch::equal(found[1].cpu(), wanted[1]));  // counts are exact
        const Tensor error = (found[0].cpu() - wanted[0]).abs() / wanted[1];
        EXPECT_LE(error.max().item<double>(), type == torch::kDouble ? 1e-13 : 1e-5);
        EXPECT_TRUE(torch::equal(found, run(device)));
      }
}

struct UnitRows {
  Tensor unit, inverse, projected;
};
// Rows 3 .. of the classes named, three rows a class; `projected` starts as ones and is added to.
UnitRows unit_rows_of(const Tensor& weight, const Tensor& ids, at::ScalarType out) {
  const int64_t count = ids.size(0) * 3 - 3, dim = weight.size(1);
  const RowRange range{ids, 3, 3};
  UnitRows r{torch::empty({count, dim}, weight.options().dtype(out)),
             torch::empty({count}, weight.options()), torch::ones({count, dim}, weight.options())};
  unit_rows(weight, range, true, r.unit, r.inverse);
  const Tensor gradient = waves(count, dim).to(weight.options());
  project_rows(weight, range, r.inverse, gradient, r.projected, true);
  return r;
}

class KernelsUnitRows : public gpu::Test, public ::testing::WithParamInterface<int64_t> {};

TEST_P(KernelsUnitRows, NormaliseAndProjectAsTheCpu) {
  const int64_t dim = GetParam();
  const Tensor ids = torch::tensor({int64_t{0}, int64_t{2}, int64_t{3}, int64_t{40}});
  for (const auto type : {torch::kFloat, torch::kDouble}) {
    const double tolerance = type == torch::kDouble ? 1e-13 : 2e-6;
    Tensor weight = (waves(123, dim) + 0.01).to(type);
    weight[6].mul_(1e-20);  // below the smallest norm
    weight[7].zero_();
    const UnitRows found = unit_rows_of(weight.to(gpu::kDevice), ids.to(gpu::kDevice), type);
    const UnitRows wanted = unit_rows_of(weight.to(torch::kDouble), ids, torch::kDouble);
    const auto expect_near = [&](const Tensor& a, const Tensor& b, double factor) {
      const Tensor error = (a.cpu().to(torch::kDouble) - b).abs() / b.abs().amax().clamp_min(1);
      EXPECT_LE(error.max().item<double>(), factor * tolerance);
    };
    expect_near(found.unit, wanted.unit, 1);
    const Tensor ratio = found.inverse.cpu().to(torch::kDouble) / wanted.inverse;
    EXPECT_LE((ratio - 1).abs().max().item<double>(), tolerance);
    const Tensor small = wanted.inverse.gt(1e11).unsqueeze(1);
    expect_near(found.projected.masked_fill(small.to(gpu::kDevice), 0),
                wanted.projected.masked_fill(small, 0), 50);
    const UnitRows again = unit_rows_of(weight.to(gpu::kDevice), ids.to(gpu::kDevice), type);
    EXPECT_TRUE(torch::equal(found.projected, again.projected));
    if (type == torch::kFloat) {
      const UnitRows narrow =
          unit_rows_of(weight.to(gpu::kDevice), ids.to(gpu::kDevice), torch::kBFloat16);
      EXPECT_TRUE(torch::equal(narrow.unit, found.unit.to(torch::kBFloat16)));
    }
  }
}

TEST_P(KernelsUnitRows, RowsThatAreNotFiniteAndCopies) {
  const int64_t dim = GetParam();
  Tensor weight = waves(9, dim).to(torch::kFloat);
  weight[2][dim / 2] = NAN;
  weight[4][dim - 1] = std::numeric_limits<float>::infinity();
  weight[5].fill_(3e38f);  // finite, its norm is not
  const auto run = [&](const Tensor& from, bool normalise, at::ScalarType type) {
    const Tensor unit = torch::empty(from.sizes(), from.options().dtype(type));
    unit_rows(from, {}, normalise, unit, torch::empty({9}, from.options()));
    return unit.cpu();
  };
  for (const auto type : {torch::kFloat, torch::kBFloat16}) {
    const Tensor found = run(weight.to(gpu::kDevice), true, type), wanted = run(weight, true, type);
    EXPECT_TRUE(torch::equal(found.isnan(), wanted.isnan()));
    const Tensor copy = run(weight.to(gpu::kDevice), false, type);
    EXPECT_TRUE(torch::equal(copy.nan_to_num(), weight.to(type).nan_to_num()));
  }
}

INSTANTIATE_TEST_SUITE_P(Dims, KernelsUnitRows, ::testing::Values(8, 512, 513));

// |error| relative to Σ |a b|, which bounds the rounding of any order of summation.
TEST_F(KernelsOnce, MatmulOfTransposedViewsAndAccumulation) {
  for (const auto& [m, k, n] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {1, 8, 1}, {7, 513, 33}, {128, 512, 1000}})
    for (const auto type : {torch::kFloat, torch::kDouble, torch::kBFloat16}) {
      SCOPED_TRACE(fmt::format("{} x {} x {} {}", m, k, n, toString(type)));
      // Tensor cores cut off what does not fit into the running sum instead of rounding it.
      const double tolerance = type == torch::kDouble ? 1e-14 : type == torch::kFloat ? 3e-6 : 1e-5;
      const auto sums = type == torch::kDouble ? torch::kDouble : torch::kFloat;
      const Tensor a = waves(m, k).to(type), b = waves(k, n).cos().to(type);
      const Tensor wanted = a.to(torch::kDouble).mm(b.to(torch::kDouble));
      const Tensor size = a.to(torch::kDouble).abs().mm(b.to(torch::kDouble).abs());
      const Tensor left = a.to(gpu::kDevice), right = b.to(gpu::kDevice);
      const Tensor left_t = left.t().contiguous(), right_t = right.t().contiguous();
      for (const auto& [l, r] : std::vector<std::pair<Tensor, Tensor>>{
               {left, right}, {left, right_t.t()}, {left_t.t(), right}}) {
        const Tensor out =
            torch::full({m, n}, NAN, torch::TensorOptions(sums).device(gpu::kDevice));
        matmul(l, r, out, false);
        EXPECT_LE(((out.cpu() - wanted) / size).abs().max().item<double>(), tolerance);
        matmul(l, r, out, true);
        EXPECT_LE(((out.cpu() - 2 * wanted) / size).abs().max().item<double>(), 2 * tolerance);
      }
    }
}

}  // namespace
}  // namespace facetrain
