// The NCCL communicator on one rank: the conformance suite with tensors on the device, the order of
// streams, the watchdog. Two and more ranks: ranks_test.cpp.

#include <chrono>

#include "comm/plugin_loader.h"
#include "comm/thread_comm.h"
#include "core/check.h"
#include "core/torch.h"
#include "tests/gpu/gpu.h"
#include "tests/support/comm_conformance.h"

namespace facetrain {
namespace {

using conformance::Case;
using torch::Tensor;

at::TensorOptions on_gpu(at::ScalarType type) {
  return at::TensorOptions(type).device(gpu::kDevice);
}

class NcclTest : public gpu::Test {
 protected:
  void SetUp() override {
    gpu::Test::SetUp();
    if (IsSkipped()) return;
    host_ = make_thread_comms(1)[0];
    comm_ = cuda_plugin().make_nccl_comm(*host_, 0);
    conformance::set_device(gpu::kDevice);
  }
  void TearDown() override {
    conformance::set_device(c10::kCPU);
    comm_.reset();
  }
  std::shared_ptr<Communicator> host_;
  std::unique_ptr<Communicator> comm_;
};

// NCCL says nothing about the maximum of a NaN and a number (nccl_comm.h), so that case is not its.
std::vector<Case> nccl_cases() {
  std::vector<Case> all;
  for (const Case& one : conformance::cases())
    if (one.name != "a_maximum_with_nan_is_nan") all.push_back(one);
  return all;
}

class NcclConformance : public NcclTest, public ::testing::WithParamInterface<Case> {};
TEST_P(NcclConformance, OnTheDevice) {
  ASSERT_EQ(comm_->size(), 1);
  GetParam().run(*comm_);
}
TEST_P(NcclConformance, HostTensorsGoOverTheHost) {
  conformance::set_device(c10::kCPU);
  GetParam().run(*comm_);
}
INSTANTIATE_TEST_SUITE_P(All, NcclConformance, ::testing::ValuesIn(nccl_cases()),
                         [](const auto& info) { return info.param.name; });

// What is computed just before goes in, and what is issued after a wait sees the result, without
// the host ever waiting; freed inputs are not overwritten while the collective reads them.
TEST_F(NcclTest, WaitsOrderTheStreams) {
  const int64_t side = 1024;
  std::vector<Tensor> checks;
  for (int64_t round = 0; round < 20; ++round) {
    Tensor slow = at::eye(side, on_gpu(at::kDouble));
    for (int i = 0; i < 10; ++i) slow = slow.mm(at::eye(side, on_gpu(at::kDouble)));
    Tensor in = slow * (round + 1);
    const Tensor out = at::zeros({side, side}, on_gpu(at::kDouble));
    Work work = comm_->all_gather(out, in);
    in.reset();
    const Tensor other = at::full({side, side}, -1, on_gpu(at::kDouble));  // may take in's memory
    work.wait();
    checks.push_back((out.sum() - (round + 1) * side).abs() + (other.sum() + side * side).abs());
  }
  EXPECT_EQ(at::stack(checks).sum().item<double>(), 0);
}

TEST_F(NcclTest, ATensorOfAnotherDeviceIsAnError) {
  if (gpu::count() < 2) GTEST_SKIP() << "wants two GPUs, found " << gpu::count();
  const Tensor other = at::zeros({4}, at::TensorOptions(at::kFloat).device(c10::kCUDA, 1));
  EXPECT_THROW(comm_->all_reduce(other, ReduceOp::kSum).wait(), Error);
}

// The collective stands behind seconds of other work on the device, as behind a rank that hangs.
void wait_behind_slow_work(Communicator& comm) {
  comm.set_deadline(std::chrono::milliseconds(200));
  const Tensor in = at::eye(8192, on_gpu(at::kDouble)), out = at::empty_like(in);
  Tensor slow = in;
  for (int i = 0; i < 400; ++i) slow = slow.mm(in);
  comm.all_gather(out, slow).wait();
  cuda_plugin().synchronize(0);
}
TEST_F(NcclTest, AWorkThatDoesNotEndInTimeIsNamed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(wait_behind_slow_work(*comm_), ::testing::ExitedWithCode(1),
              "all_gather #0 .*did not complete on the device within 0\\.");
}

}  // namespace
}  // namespace facetrain
