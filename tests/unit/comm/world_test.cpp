// World without mpirun, deadlines, and the errors of `device`.
#include "comm/world.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <thread>

#include "comm/build_id.h"
#include "comm/collectives.h"
#include "comm/deadline.h"
#include "comm/thread_comm.h"
#include "core/check.h"
#include "core/torch.h"

namespace facetrain {
namespace {

using testing::HasSubstr;

TEST(World, AloneIsOneRankWithoutMpi) {
  const auto world = World::create({.device = "cpu", .threads = 2});
  EXPECT_EQ(world->comm().size(), 1);
  EXPECT_EQ(world->describe(), "1 rank, 2 threads, cpu");
  EXPECT_EQ(at::get_num_threads(), 2);
  at::set_num_threads(1);
  const at::Tensor values = at::ones({3});
  world->comm().all_reduce(values, ReduceOp::kSum).wait();
  EXPECT_TRUE(at::equal(values, at::ones({3})));
}

std::string failure_with_device(const std::string& device) {
  try {
    World::create({.device = device});
  } catch (const Error& error) {
    return error.what();
  }
  return "no failure";
}

TEST(World, SaysWhyADeviceCannotBeUsed) {
  EXPECT_THAT(failure_with_device("gpu"),
              HasSubstr("device wants 'cpu', 'cuda' or 'cuda:N', found 'gpu'"));
  if (std::filesystem::exists("/dev/nvidiactl")) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_THAT(failure_with_device("cuda"), HasSubstr("device: cuda wants"));
  EXPECT_THAT(failure_with_device("cuda:0"), HasSubstr("or use device: cpu"));
}

TEST(World, DifferencesAreNamedByLineAndRank) {
  run_thread_ranks(3, [](Communicator& comm) {
    check_same_on_all_ranks(comm, "the configuration", "seed: 1\nlr: 0.1\n");
    try {
      check_same_on_all_ranks(comm, "the configuration",
                              comm.rank() == 1 ? "seed: 1\nlr: 0.2\nx: 1" : "seed: 1\nlr: 0.1\n");
      ADD_FAILURE() << "no error";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("the configuration wants to be the same on all ranks, "
                                          "found 'lr: 0.1' on ranks 0 and 2, 'lr: 0.2' on rank 1"));
    }
  });
}

TEST(BuildId, IsTheSameEveryTime) {
  EXPECT_EQ(build_id(), build_id());
  EXPECT_THAT(build_id(), testing::MatchesRegex("[0-9.]+-[0-9a-f]{16}"));
}

TEST(Deadline, ComesFromTheEnvironment) {
  unsetenv("FACETRAIN_DEADLINE_SECONDS");
  EXPECT_EQ(default_deadline(), std::chrono::minutes(30));
  setenv("FACETRAIN_DEADLINE_SECONDS", "1.5", 1);
  EXPECT_EQ(default_deadline(), std::chrono::milliseconds(1500));
  for (const char* wrong : {"0", "-3", "soon", "5s"}) {
    setenv("FACETRAIN_DEADLINE_SECONDS", wrong, 1);
    EXPECT_THROW(default_deadline(), Error) << wrong;
  }
  unsetenv("FACETRAIN_DEADLINE_SECONDS");
}

// In a child process: what a signal does to the deadlines is for good.
TEST(Deadline, ASignalShortensUntilAllRanksHaveMet) {
  EXPECT_EXIT(
      {
        const auto start = Clock::now() - std::chrono::seconds(60);
        shorten_all_deadlines();
        if (!deadlines_shortened_at()) std::exit(1);
        restore_all_deadlines();
        shorten_all_deadlines();  // a rank that hears the signal late
        if (deadlines_shortened_at()) std::exit(2);
        if (deadline_passed(start, std::chrono::minutes(2))) std::exit(3);
        std::exit(0);
      },
      ::testing::ExitedWithCode(0), "");
}

TEST(Deadline, PassesAfterItsTime) {
  const auto now = Clock::now();
  EXPECT_FALSE(deadline_passed(now, std::chrono::hours(1)));
  EXPECT_TRUE(deadline_passed(now - std::chrono::seconds(2), std::chrono::seconds(1)));
}

TEST(Slices, CoverAllRowsOnceAndDifferByOneAtMost) {
  for (const int64_t total : {0, 1, 7, 128, 1000003}) {
    for (const int size : {1, 2, 3, 4, 7}) {
      int64_t end = 0;
      for (int r = 0; r < size; ++r) {
        const Slice slice = slice_of(total, r, size);
        EXPECT_EQ(slice.begin, end);
        EXPECT_LE(std::abs(slice.size() - total / size), 1);
        end = slice.end;
      }
      EXPECT_EQ(end, total);
    }
  }
}

}  // namespace
}  // namespace facetrain
