// What GPU tests share: the device, or the reason why there is none.
//
// Without a GPU main() skips everything, with that reason, or fails when FACETRAIN_REQUIRE_GPU=1;
// where FACETRAIN_TEST_GPUS=0 lets it run, each test that wants one skips itself.
#pragma once

#include <c10/core/Device.h>
#include <gtest/gtest.h>

#include <string>

#include "comm/world.h"

namespace facetrain::gpu {

// Usable GPUs. main() asks before any test runs: once backward() has run on the CPU, LibTorch can
// take no CUDA library any more.
int count();
// Why there is none; empty when there is one.
const std::string& missing();

inline const c10::Device kDevice(c10::kCUDA, 0);

// The world of a test under mpirun: its communicator takes tensors of this rank's device.
World& world();

// Base of every fixture.
class Test : public ::testing::Test {
 protected:
  void SetUp() override {
    if (count() == 0) GTEST_SKIP() << "no GPU: " << missing();
  }
};

}  // namespace facetrain::gpu
