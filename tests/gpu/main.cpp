// main() of the GPU tests: in one process, or under mpirun with a world over all ranks.
//
// Exit codes: 0 at least one test passed, 1 a failure or nothing to run, 77 everything was skipped
// (ctest then says so). FACETRAIN_REQUIRE_GPU=N: fewer GPUs than N are a failure of every test
// program. FACETRAIN_TEST_GPUS (1) says how many the tests want.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "comm/plugin_loader.h"
#include "core/check.h"
#include "core/torch.h"
#include "tests/gpu/gpu.h"

namespace facetrain::gpu {
namespace {

constexpr int kSkipped = 77;

struct Found {
  int count = 0;
  std::string missing;
};

const Found& found() {
  static const Found result = [] {
    Found here;
    try {
      here.count = cuda_plugin().device_count(here.missing);
    } catch (const Error& error) {
      here.missing = error.what();
    }
    return here;
  }();
  return result;
}

int number_in(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::atoi(text);
}

World* current_world = nullptr;

// A rank other than 0 prints only what failed, with its number.
class FailuresOnly : public ::testing::EmptyTestEventListener {
  void OnTestPartResult(const ::testing::TestPartResult& result) override {
    if (!result.failed()) return;
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    std::cerr << fmt::format("[rank {}] {}.{}: {}:{}: {}\n", world().comm().rank(),
                             test ? test->test_suite_name() : "", test ? test->name() : "",
                             result.file_name() ? result.file_name() : "", result.line_number(),
                             result.message());
  }
};

int exit_code(int failed, int passed) {
  const bool none = ::testing::UnitTest::GetInstance()->test_to_run_count() == 0;
  if (none) std::fprintf(stderr, "no test matches the filter\n");
  if (failed != 0 || none) return 1;
  return passed > 0 ? 0 : kSkipped;
}

int run_alone() {
  if (count() > 0) cuda_plugin().set_device(0);
  const int failed = RUN_ALL_TESTS();
  return exit_code(failed, ::testing::UnitTest::GetInstance()->successful_test_count());
}

// Every rank runs every test; a failure anywhere fails all.
int run_ranks(int ranks) {
  const auto owner = World::create({.device = "cuda", .threads = 1});
  current_world = owner.get();
  Communicator& comm = owner->comm();
  FT_CHECK(comm.size() == ranks, "FACETRAIN_TEST_RANKS wants {} ranks, found {}", ranks,
           comm.size());
  if (comm.rank() == 0) {
    std::printf("%s\n", owner->describe().c_str());
  } else {
    auto& listeners = ::testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailuresOnly);
  }
  const int failed = RUN_ALL_TESTS();
  const int passed = ::testing::UnitTest::GetInstance()->successful_test_count();
  const at::Tensor counts = at::tensor({failed, -passed}, at::kInt);  // the fewest that passed
  comm.all_reduce(counts, ReduceOp::kMax).wait();
  return exit_code(counts[0].item<int>(), -counts[1].item<int>());
}

int run() {
  const int ranks = number_in("FACETRAIN_TEST_RANKS", 0);
  const int wanted = number_in("FACETRAIN_TEST_GPUS", 1);
  const int required = number_in("FACETRAIN_REQUIRE_GPU", 0);
  if (count() < required) {
    std::fprintf(stderr, "FACETRAIN_REQUIRE_GPU wants %d GPUs, found %d. %s\n", required, count(),
                 missing().c_str());
    return 1;
  }
  if (count() < wanted) {
    std::printf("[  SKIPPED ] all tests (GPUs wanted: %d, found: %d). %s\n", wanted, count(),
                missing().c_str());
    return kSkipped;
  }
  return ranks == 0 ? run_alone() : run_ranks(ranks);
}

}  // namespace

int count() { return found().count; }
const std::string& missing() { return found().missing; }

World& world() {
  FT_CHECK(current_world != nullptr,
           "this test runs under mpirun with FACETRAIN_TEST_RANKS set; see tests/CMakeLists.txt");
  return *current_world;
}

}  // namespace facetrain::gpu

int main(int argc, char** argv) {
  using namespace facetrain;
  setenv("FACETRAIN_DEADLINE_SECONDS", "120", /*overwrite=*/0);
  at::set_num_threads(1);
  ::testing::InitGoogleTest(&argc, argv);
  try {
    return gpu::run();
  } catch (const Error& error) {
    fail_world(1, fmt::format("{}: {}", error.place(), error.what()));
  }
}
