// Two processes with device tensors: on one GPU through host memory and MPI, or over NCCL where
// there are two. The same cases: see tests/CMakeLists.txt for how they are started.

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "comm/collectives.h"
#include "comm/thread_comm.h"
#include "core/torch.h"
#include "losses/sharded_classifier.h"
#include "tests/gpu/gpu.h"
#include "tests/gpu/small_run.h"
#include "tests/support/comm_conformance.h"
#include "tests/unit/losses/classifier_problem.h"

namespace facetrain {
namespace {

using conformance::Case;
using torch::Tensor;

bool over_nccl() { return gpu::world().describe().find("NCCL") != std::string::npos; }

class RanksConformance : public gpu::Test, public ::testing::WithParamInterface<Case> {};
TEST_P(RanksConformance, OnTheDevice) {
  Communicator& comm = gpu::world().comm();
  ASSERT_EQ(comm.size(), 2);
  if (over_nccl() && GetParam().name == "a_maximum_with_nan_is_nan")
    GTEST_SKIP() << "NCCL says nothing about the maximum of a NaN and a number";
  conformance::set_device(gpu::world().device());
  GetParam().run(comm);
  conformance::set_device(c10::kCPU);
}
INSTANTIATE_TEST_SUITE_P(All, RanksConformance, ::testing::ValuesIn(conformance::cases()),
                         [](const auto& info) { return info.param.name; });

class Ranks : public gpu::Test {};

// Autograd runs each process's backward, with its collectives, on a thread of the device's.
TEST_F(Ranks, TheClassifierGivesTheCpusResult) {
  Communicator& comm = gpu::world().comm();
  ASSERT_EQ(comm.size(), 2);
  const c10::Device device = gpu::world().device();
  const testing::Problem problem = testing::make_problem(13, 22, 16, 5);
  for (const testing::MarginCase& margin : testing::registered_cases()) {
    SCOPED_TRACE(margin.name);
    const testing::Solution wanted = testing::solve_sharded(problem, margin, 1);
    ClassifierOptions options;
    options.classes = problem.classes;
    options.workspace_mb = problem.workspace_mb;
    ShardedClassifier classifier(options, problem.dim, margin.make(), comm, problem.seed);
    classifier.to(device, torch::kDouble);
    const Slice classes = slice_of(problem.classes, comm.rank(), comm.size());
    const Slice mine = slice_of(problem.rows(), comm.rank(), comm.size());
    const auto here = [&](const Tensor& all) {
      return all.slice(0, mine.begin, mine.end).to(device);
    };
    const auto parameters = testing::make_parameters(problem, testing::rule_of(problem, margin));
    {
      const torch::NoGradGuard none;
      if (parameters.bias.defined())
        classifier.bias.copy_(parameters.bias.slice(0, classes.begin, classes.end));
      if (parameters.shared_bias.defined()) classifier.shared_bias.copy_(parameters.shared_bias);
    }
    classifier.begin_step(std::vector<Tensor>{here(problem.label)}, problem.step, 100, 10);
    const Tensor x = here(problem.x).clone().set_requires_grad(true);
    const Tensor loss =
        classifier.forward(x, here(problem.label), torch::arange(mine.begin, mine.end).to(device));
    (comm.size() * (loss * here(problem.row_weight)).sum()).backward();
    const auto expect_near = [](const Tensor& found, const Tensor& wanted) {
      EXPECT_LE(testing::difference(found.detach().cpu(), wanted), 1e-9);
    };
    expect_near(loss, wanted.loss.slice(0, mine.begin, mine.end));
    expect_near(x.grad() / comm.size(), wanted.by_x.slice(0, mine.begin, mine.end));
    expect_near(classifier.weight.grad(), wanted.by_weight.slice(0, classes.begin, classes.end));
  }
}

// Batch norm over both ranks, so that the world size must not show; the first step, before rounding
// is amplified (DESIGN section 3).
TEST_F(Ranks, TheFirstStepOfARunIsThatOfOneCpu) {
  Communicator& comm = gpu::world().comm();
  ASSERT_EQ(comm.size(), 2);
  const std::filesystem::path folder =
      std::filesystem::path(FACETRAIN_BINARY_DIR) / "gpu_ranks_run";
  if (comm.rank() == 0) {
    std::filesystem::remove_all(folder);
    write_tiny_faces(folder / "faces", 7, 6, 32);
  }
  comm.barrier();
  const at::NoTF32Guard full_fp32;
  const std::vector<std::string> overrides{"model.batch_norm=sync", "trainer.steps=2"};
  gpu::train(gpu::small_config(folder, "gpu", overrides), comm, gpu::world().device());
  if (comm.rank() == 0) {
    const auto alone = make_thread_comms(1)[0];
    gpu::train(gpu::small_config(folder, "cpu", overrides), *alone, c10::kCPU);
    const auto found = gpu::losses(folder / "gpu"), wanted = gpu::losses(folder / "cpu");
    ASSERT_EQ(found.size(), 2u);
    EXPECT_NEAR(found[0] / wanted[0], 1, 5e-5);
    EXPECT_TRUE(std::isfinite(found[1]));
    std::filesystem::remove_all(folder);
  }
  comm.barrier();
}

}  // namespace
}  // namespace facetrain
