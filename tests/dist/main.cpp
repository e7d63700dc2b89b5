// main() of the tests that run under mpirun: every rank runs every test, rank 0 speaks, a failure
// anywhere fails all.
//
// Rank 0 prints gtest's own output; another rank prints only its failures, each line with its
// number. Tests get the communicator from dist_comm(); FACETRAIN_TEST_RANKS must be the number of
// ranks, so that no run passes at another size.
#include <gtest/gtest.h>

#include <cstdio>
#include <cstdlib>
#include <iostream>

#include "core/check.h"
#include "core/torch.h"
#include "tests/dist/dist.h"

namespace facetrain {
namespace {

World* world = nullptr;

class FailuresOnly : public testing::EmptyTestEventListener {
  void OnTestPartResult(const testing::TestPartResult& result) override {
    if (!result.failed()) return;
    const auto* test = testing::UnitTest::GetInstance()->current_test_info();
    std::cerr << fmt::format("[rank {}] {}.{}: {}:{}: {}\n", dist_comm().rank(),
                             test ? test->test_suite_name() : "", test ? test->name() : "",
                             result.file_name() ? result.file_name() : "", result.line_number(),
                             result.message());
  }
};

int run_all(Communicator& comm) {
  const char* wanted = std::getenv("FACETRAIN_TEST_RANKS");
  FT_CHECK(wanted != nullptr && std::atoi(wanted) == comm.size(),
           "FACETRAIN_TEST_RANKS wants {} ranks, found {}", wanted ? wanted : "(unset)",
           comm.size());
  if (comm.rank() != 0) {
    auto& listeners = testing::UnitTest::GetInstance()->listeners();
    delete listeners.Release(listeners.default_result_printer());
    listeners.Append(new FailuresOnly);
  }
  const int failed = RUN_ALL_TESTS();
  const auto* tests = testing::UnitTest::GetInstance();
  const at::Tensor counts = at::tensor(
      {failed, -tests->successful_test_count(), tests->successful_test_count()}, at::kInt);
  comm.all_reduce(counts, ReduceOp::kMax).wait();
  const int* count = counts.data_ptr<int>();
  if (comm.rank() == 0) {
    std::printf("%d ranks: %d to %d tests passed on a rank%s\n", comm.size(), -count[1], count[2],
                count[0] ? ", FAILED" : "");
    std::fflush(stdout);
  }
  return count[0] != 0 || count[2] == 0 ? 1 : 0;
}

}  // namespace

World& dist_world() { return *world; }
Communicator& dist_comm() { return world->comm(); }

}  // namespace facetrain

int main(int argc, char** argv) {
  using namespace facetrain;
  setenv("FACETRAIN_DEADLINE_SECONDS", "60", /*overwrite=*/0);
  testing::InitGoogleTest(&argc, argv);
  try {
    const auto owner = World::create({.device = "cpu", .threads = 1});
    world = owner.get();
    install_signal_handlers();
    if (owner->comm().rank() == 0) std::printf("%s\n", owner->describe().c_str());
    return run_all(owner->comm());
  } catch (const Error& error) {
    fail_world(1, fmt::format("{}: {}", error.place(), error.what()));
  }
}
