// The options of the classifier on a device: Σ v and the constant of the kernels, and every option
// over every margin of tests/unit/losses/option_cases.cpp, against the CPU in float64.

#include "comm/thread_comm.h"
#include "core/torch.h"
#include "kernels/ops.h"
#include "losses/sharded_classifier.h"
#include "tests/gpu/gpu.h"
#include "tests/support/kernel_cases.h"
#include "tests/unit/losses/option_cases.h"

namespace facetrain::testing {
namespace {

using torch::Tensor;

double relative(const Tensor& a, const Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}
Tensor on_host(const Tensor& t) { return t.to(c10::kCPU, torch::kDouble); }

// ---- kernels ------------------------------------------------------------------------------------

struct Chunk {
  kernels::RowRule rule;
  RowVectors rows;
  Tensor cosines, coefficient, log_sum, target_gradient, constant;
};

// The same numbers on any device; targets: none, before the chunk, inside, its last column.
Chunk make_chunk(NegativeRule negative, RowReduction reduction, int64_t columns,
                 at::ScalarType type, c10::Device device) {
  const auto there = [&](const Tensor& t) { return t.to(device, type); };
  const Tensor row = torch::arange(7, torch::kDouble);
  Chunk c;
  c.rule = {negative, reduction, 1.3, 0.4, 7.0, 1.2};
  c.rows = {there(6 + row), there(0.3 * row - 1), there(0.1 * row - 0.35), there(0.05 * row),
            torch::tensor({int64_t{-1}, int64_t{4}, int64_t{5}, 4 + columns, 5 + columns / 2,
                           5 + columns / 3, 5 + columns})
                .to(device)};
  c.cosines = there(torch::sin(torch::arange(7 * columns, torch::kDouble) * 1.7 + 0.3)
                        .mul(0.93)
                        .view({7, columns}));
  c.coefficient = there(0.2 + row);
  c.log_sum = there(9 + 0.5 * row);
  c.target_gradient = there(-3 - row);
  c.constant = there(0.1 + 0.07 * row);
  return c;
}
Tensor plain_sum_of(const Chunk& c) {
  RowSums sums = RowSums::start(7, c.cosines.options());
  add_row_sums(c.cosines, 5, c.rule, c.rows, sums);
  return sums.plain_sum;
}
Tensor gradients_of(const Chunk& c, at::ScalarType type) {
  const Tensor out = torch::empty_like(c.cosines, type);
  row_gradients(c.cosines, out, 5, c.rule, c.rows, c.coefficient, c.log_sum, c.target_gradient,
                c.constant);
  return out;
}

class KernelsPlain
    : public gpu::Test,
      public ::testing::WithParamInterface<std::tuple<NegativeRule, RowReduction, at::ScalarType>> {
};

TEST_P(KernelsPlain, SumAndConstantAreTheCpus) {
  const auto [negative, reduction, type] = GetParam();
  const double tolerance = type == torch::kDouble ? 1e-12 : 2e-5;
  for (const int64_t columns : {1, 33, 1000}) {
    SCOPED_TRACE(columns);
    const Chunk device = make_chunk(negative, reduction, columns, type, gpu::kDevice);
    const Chunk rounded = make_chunk(negative, reduction, columns, type, c10::kCPU);
    Chunk host = make_chunk(negative, reduction, columns, torch::kDouble, c10::kCPU);
    host.cosines = rounded.cosines.to(torch::kDouble);
    for (const auto& [to, from] : {std::pair(&host.rows.scale, &rounded.rows.scale),
                                   {&host.rows.shift, &rounded.rows.shift},
                                   {&host.rows.p0, &rounded.rows.p0},
                                   {&host.rows.p1, &rounded.rows.p1},
                                   {&host.coefficient, &rounded.coefficient},
                                   {&host.constant, &rounded.constant}})
      *to = from->to(torch::kDouble);
    const auto expect_near = [&](const Tensor& found, const Tensor& wanted, double size) {
      const Tensor error = (on_host(found) - wanted).abs() / wanted.abs().clamp_min(size);
      EXPECT_LE(error.max().item<double>(), tolerance);
    };
    expect_near(plain_sum_of(device), plain_sum_of(host), static_cast<double>(columns));
    EXPECT_TRUE(torch::equal(plain_sum_of(device), plain_sum_of(device)));
    const Tensor found = gradients_of(device, type);
    expect_near(found, gradients_of(host, torch::kDouble), 1);
    if (type == torch::kFloat) {
      EXPECT_TRUE(torch::equal(gradients_of(device, torch::kBFloat16), found.to(torch::kBFloat16)));
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Rules, KernelsPlain, every_margin_kernel());

// ---- the classifier -----------------------------------------------------------------------------

Solution solve_on(c10::Device device, const Problem& problem, const MarginCase& margin,
                  at::ScalarType embeddings, at::ScalarType rows) {
  const auto comm = make_thread_comms(1)[0];
  ClassifierOptions options;
  options.classes = problem.classes;
  options.sample_rate = problem.sample_rate;
  options.workspace_mb = problem.workspace_mb;
  options.gemm = problem.gemm;
  problem.configure(options);
  ShardedClassifier classifier(options, problem.dim, margin.make(), *comm, problem.seed);
  classifier.to(device, rows);
  const Tensor labels = problem.label.to(device);
  classifier.begin_step(std::vector<Tensor>{labels}, problem.step, 100, 10);
  const Tensor x = problem.x.to(device, embeddings).clone().set_requires_grad(true);
  const Tensor loss =
      classifier.forward(x, labels, torch::arange(problem.rows(), labels.options()));
  (loss * problem.row_weight.to(device, rows)).sum().backward();
  const bool sampled = classifier.touched_rows("weight").defined();
  return {on_host(loss.detach()),
          on_host(x.grad()),
          on_host(sampled ? classifier.row_gradient("weight") : classifier.weight.grad()),
          {},
          {},
          {}};
}

class ClassifierOptionsOn : public gpu::Test, public ::testing::WithParamInterface<OptionCase> {};

TEST_P(ClassifierOptionsOn, ADeviceIsTheCpu) {
  Problem problem = with_options(make_problem(24, 40, 32, 3), GetParam());
  for (const double rate : {1.0, 0.4}) {
    SCOPED_TRACE(rate);
    problem.sample_rate = rate;
    const auto on = [&](c10::Device device, at::ScalarType type) {
      return solve_on(device, problem, GetParam().margin, type, type);
    };
    const Solution wanted = on(c10::kCPU, torch::kDouble);
    const Solution found = on(gpu::kDevice, torch::kDouble);
    const Solution again = on(gpu::kDevice, torch::kDouble);
    const Solution single = on(gpu::kDevice, torch::kFloat);
    EXPECT_LE(relative(found.loss, wanted.loss), 1e-9);
    EXPECT_LE(relative(found.by_x, wanted.by_x), 1e-9);
    EXPECT_LE(relative(found.by_weight, wanted.by_weight), 1e-9);
    EXPECT_TRUE(torch::equal(found.loss, again.loss));
    EXPECT_TRUE(torch::equal(found.by_x, again.by_x));
    EXPECT_TRUE(torch::equal(found.by_weight, again.by_weight));
    EXPECT_LE(relative(single.loss, wanted.loss), 1e-5);
    EXPECT_LE(relative(single.by_x, wanted.by_x), 1e-4);
    EXPECT_LE(relative(single.by_weight, wanted.by_weight), 1e-4);
  }
}

INSTANTIATE_TEST_SUITE_P(Margins, ClassifierOptionsOn, ::testing::ValuesIn(option_cases()),
                         [](const auto& info) { return info.param.margin.name; });

}  // namespace
}  // namespace facetrain::testing
