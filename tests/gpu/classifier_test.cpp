// The class-sharded classifier on a device against the CPU: every margin on one rank, and 2 and 4
// thread ranks that share the device (host-staged collectives).

#include <mutex>

#include "comm/plugin_loader.h"
#include "comm/thread_comm.h"
#include "core/torch.h"
#include "losses/sharded_classifier.h"
#include "tests/gpu/gpu.h"
#include "tests/unit/losses/classifier_problem.h"

namespace facetrain::testing {
namespace {

using torch::Tensor;

// |a - b| / |b| in the 2-norm.
double relative(const Tensor& a, const Tensor& b) {
  return ((a - b).norm() / b.norm()).item<double>();
}

Tensor on_host(const Tensor& t) { return t.to(c10::kCPU, torch::kDouble); }

ClassifierOptions options_of(const Problem& problem) {
  ClassifierOptions options;
  options.classes = problem.classes;
  options.sample_rate = problem.sample_rate;
  options.workspace_mb = problem.workspace_mb;
  options.gemm = problem.gemm;
  return options;
}

// One rank on `device`, as solve_sharded does it on the CPU.
Solution solve_on(c10::Device device, const Problem& problem, const MarginCase& margin,
                  at::ScalarType embeddings, at::ScalarType rows) {
  const auto comm = make_thread_comms(1)[0];
  ShardedClassifier classifier(options_of(problem), problem.dim, margin.make(), *comm,
                               problem.seed);
  classifier.to(device, rows);
  const Parameters start = make_parameters(problem, rule_of(problem, margin));
  if (start.bias.defined()) {
    const torch::NoGradGuard none;
    classifier.bias.copy_(start.bias);
  }
  const Tensor labels = problem.label.to(device);
  classifier.begin_step(std::vector<Tensor>{labels}, problem.step, 100, 10);
  const Tensor x = problem.x.to(device, embeddings).clone().set_requires_grad(true);
  const Tensor loss =
      classifier.forward(x, labels, torch::arange(problem.rows(), labels.options()));
  (loss * problem.row_weight.to(device, rows)).sum().backward();

  Solution all;
  all.loss = on_host(loss.detach());
  all.by_x = on_host(x.grad());
  const Tensor touched = classifier.touched_rows("weight");
  if (touched.defined()) {
    all.classes = touched.cpu();
    all.by_weight = on_host(classifier.row_gradient("weight"));
    if (start.bias.defined()) all.by_bias = on_host(classifier.row_gradient("bias"));
  } else {
    all.by_weight = on_host(classifier.weight.grad());
    if (start.bias.defined()) all.by_bias = on_host(classifier.bias.grad());
  }
  if (classifier.shared_bias.defined()) all.by_shared_bias = on_host(classifier.shared_bias.grad());
  return all;
}

std::vector<MarginCase> all_cases() {
  std::vector<MarginCase> all = registered_cases();
  for (const MarginCase& c : interface_cases()) all.push_back(c);
  return all;
}
MarginCase case_named(const std::string& name) {
  for (const MarginCase& c : all_cases())
    if (c.name == name) return c;
  FT_FAIL("no margin case {}", name);
}

void expect_close(const Solution& found, const Solution& wanted, double of_loss, double of_rest) {
  EXPECT_LE(relative(found.loss, wanted.loss), of_loss);
  EXPECT_LE(relative(found.by_x, wanted.by_x), of_rest);
  EXPECT_LE(relative(found.by_weight, wanted.by_weight), of_rest);
  ASSERT_EQ(found.by_bias.defined(), wanted.by_bias.defined());
  if (found.by_bias.defined()) {
    EXPECT_LE(relative(found.by_bias, wanted.by_bias), of_rest);
  }
  ASSERT_EQ(found.by_shared_bias.defined(), wanted.by_shared_bias.defined());
  if (found.by_shared_bias.defined()) {
    EXPECT_LE(relative(found.by_shared_bias, wanted.by_shared_bias), of_rest);
  }
}

class Classifier : public gpu::Test, public ::testing::WithParamInterface<MarginCase> {};

TEST_P(Classifier, InFp64IsTheCpus) {
  Problem problem = make_problem(24, 40, 32, 3);
  for (const double rate : {1.0, 0.4}) {
    SCOPED_TRACE(rate);
    problem.sample_rate = rate;
    const auto on = [&](c10::Device device) {
      return solve_on(device, problem, GetParam(), torch::kDouble, torch::kDouble);
    };
    const Solution found = on(gpu::kDevice), wanted = on(c10::kCPU), again = on(gpu::kDevice);
    expect_close(found, wanted, 1e-9, 1e-9);
    if (rate < 1) {
      EXPECT_TRUE(torch::equal(found.classes, wanted.classes));
    }
    EXPECT_TRUE(torch::equal(found.loss, again.loss));
    EXPECT_TRUE(torch::equal(found.by_x, again.by_x));
    EXPECT_TRUE(torch::equal(found.by_weight, again.by_weight));
  }
}

// On a CPU fp32 is off by 3e-7 in the losses and 2.6e-6 in the gradients.
TEST_P(Classifier, InFp32IsNearFp64) {
  const Problem problem = make_problem(24, 40, 32, 3);
  const Solution found = solve_on(gpu::kDevice, problem, GetParam(), torch::kFloat, torch::kFloat);
  const Solution wanted = solve_on(c10::kCPU, problem, GetParam(), torch::kDouble, torch::kDouble);
  expect_close(found, wanted, 2e-6, 1e-5);
}

INSTANTIATE_TEST_SUITE_P(Margins, Classifier, ::testing::ValuesIn(all_cases()),
                         [](const auto& info) { return info.param.name; });

class ClassifierOnce : public gpu::Test {};

// bf16 products are exact in fp32: the devices differ by the order of sums, and by factors whose
// last bit fell the other way.
TEST_F(ClassifierOnce, InBf16AndFp16IsNearTheCpusBf16) {
  Problem problem = make_problem(24, 40, 32, 3);
  problem.workspace_mb = 1;
  problem.x = (problem.x / problem.x.norm(2, 1, true) * 8).to(torch::kBFloat16).to(torch::kDouble);
  for (const char* name : {"arcface", "cosface", "softmax", "subcenter_arcface"}) {
    SCOPED_TRACE(name);
    const Solution wanted =
        solve_on(c10::kCPU, problem, case_named(name), torch::kBFloat16, torch::kFloat);
    for (const auto type : {torch::kBFloat16, torch::kHalf}) {
      const Solution found = solve_on(gpu::kDevice, problem, case_named(name), type, torch::kFloat);
      EXPECT_LE(relative(found.loss, wanted.loss), 0.01);
      EXPECT_LE(relative(found.by_weight, wanted.by_weight), 0.02);
      EXPECT_LE(relative(found.by_x, wanted.by_x), 0.02);
    }
  }
}

// On thread ranks one rank's backward would block the device's one autograd thread, so forward and
// backward of the pass are called by the ranks themselves; tests/gpu/ranks_test.cpp has processes.
Solution solve_on_ranks(const Problem& problem, const MarginCase& margin, int size) {
  const MarginRule rule = rule_of(problem, margin);
  const Parameters start = make_parameters(problem, rule);
  const auto double_on_gpu = torch::TensorOptions(torch::kDouble).device(gpu::kDevice);
  Solution all{torch::zeros_like(problem.row_weight),
               torch::zeros_like(problem.x),
               torch::zeros_like(start.weight),
               {},
               {},
               {}};
  if (start.bias.defined()) all.by_bias = torch::zeros_like(start.bias);
  std::mutex lock;
  run_thread_ranks(size, [&](Communicator& comm) {
    ASSERT_EQ(comm.size(), size);
    const torch::NoGradGuard no_grad;
    const Slice classes = slice_of(problem.classes, comm.rank(), size);
    const Slice mine = slice_of(problem.rows(), comm.rank(), size);
    const int64_t k = rule.rows_per_class;
    const auto rows_of = [&](const Tensor& whole) { return whole.slice(0, mine.begin, mine.end); };
    const auto margin_here = margin.make();
    margin_here->to(gpu::kDevice, torch::kDouble);
    const ClassShard shard{
        start.weight.slice(0, k * classes.begin, k * classes.end).to(gpu::kDevice),
        start.bias.defined() ? start.bias.slice(0, classes.begin, classes.end).to(gpu::kDevice)
                             : Tensor(),
        {},
        classes};
    MarginInput input;
    input.classes = problem.classes;
    input.step = problem.step;
    input.total_steps = 100;
    input.steps_per_epoch = 10;
    const auto pass = c10::make_intrusive<ClassifierPass>(shard, *margin_here, comm, input,
                                                          Tensor(), PassSettings{1000, false});
    const Tensor loss =
        pass->forward(rows_of(problem.x).to(gpu::kDevice), rows_of(problem.label).to(gpu::kDevice),
                      torch::arange(mine.begin, mine.end).to(gpu::kDevice));
    ShardGradient to;
    to.weight = torch::empty_like(shard.weight);
    if (shard.bias.defined()) to.bias = torch::empty({classes.size()}, double_on_gpu);
    // The convention of comm/collectives.h: a rank is handed size() times its share.
    const Tensor by_x = pass->backward(rows_of(problem.row_weight).to(gpu::kDevice) * size, to);
    const std::lock_guard guard(lock);
    rows_of(all.loss).copy_(loss);
    rows_of(all.by_x).copy_(by_x / size);
    all.by_weight.slice(0, k * classes.begin, k * classes.end).copy_(to.weight);
    if (to.bias.defined()) all.by_bias.slice(0, classes.begin, classes.end).copy_(to.bias);
  });
  return all;
}

TEST_F(ClassifierOnce, RanksThatShareTheDeviceGiveTheCpusResult) {
  const Problem problem = make_problem(13, 22, 16, 5);  // divided by neither 2 nor 4
  for (const char* name : {"arcface", "softmax", "subcenter_arcface", "npcface"})
    for (const int size : {1, 2, 4}) {
      SCOPED_TRACE(fmt::format("{} on {} ranks", name, size));
      const Solution wanted =
          solve_on(c10::kCPU, problem, case_named(name), torch::kDouble, torch::kDouble);
      expect_close(solve_on_ranks(problem, case_named(name), size), wanted, 1e-9, 1e-9);
    }
}

TEST_F(ClassifierOnce, LabelsUnknownToTheStepGiveNanAndNoCrash) {
  Problem problem = make_problem(6, 30, 8, 1);
  const auto comm = make_thread_comms(1)[0];
  ClassifierOptions options = options_of(problem);
  options.sample_rate = 0.0;
  ShardedClassifier classifier(options, 8, case_named("cosface").make(), *comm, 1);
  classifier.to(gpu::kDevice);
  const Tensor told = torch::tensor({int64_t{1}, int64_t{2}}).to(gpu::kDevice);
  classifier.begin_step(std::vector<Tensor>{told}, 0, 1, 1);
  const Tensor asked = torch::tensor({int64_t{1}, int64_t{3}}).to(gpu::kDevice);
  const Tensor loss = classifier.forward(torch::ones({2, 8}).to(gpu::kDevice), asked,
                                         torch::arange(2).to(gpu::kDevice));
  EXPECT_TRUE(loss[0].isfinite().item<bool>());
  EXPECT_TRUE(loss[1].isnan().item<bool>());
}

// The gradient of the rows, the workspace of forward and backward, and a few [B, D].
TEST_F(ClassifierOnce, MemoryIsIndependentOfBatchTimesClasses) {
  constexpr int64_t kDim = 16, kClasses = 400000;
  const CudaPlugin& cuda = cuda_plugin();
  for (const int64_t batch : {64, 64, 512}) {  // the first also pays for cuBLAS's workspace
    const auto comm = make_thread_comms(1)[0];
    ClassifierOptions options;
    options.classes = kClasses;
    options.workspace_mb = 8;
    ShardedClassifier classifier(options, kDim, case_named("arcface").make(), *comm, 1);
    classifier.to(gpu::kDevice);
    const Tensor label = (torch::arange(batch) * 7919 % kClasses).to(gpu::kDevice);
    const Tensor x = torch::sin(torch::arange(batch * kDim, torch::kFloat))
                         .view({batch, kDim})
                         .to(gpu::kDevice)
                         .set_requires_grad(true);
    const auto step = [&] {
      classifier.begin_step(std::vector<Tensor>{label}, 0, 1, 1);
      classifier.forward(x, label, torch::arange(batch).to(gpu::kDevice)).mean().backward();
    };
    step();
    x.mutable_grad().reset();
    cuda.reset_peak_memory(0);
    const int64_t before = cuda.peak_memory(0);
    step();
    const int64_t peak = cuda.peak_memory(0) - before;
    EXPECT_LE(peak, kClasses * kDim * 4 + 2 * 8'000'000 + 40 * batch * (kDim + 8) * 8);
    EXPECT_LT(peak, batch * kClasses * 4);
  }
}

}  // namespace
}  // namespace facetrain::testing
