// The conformance suite on thread ranks, and what only threads can show: failures that release the
// others.
#include "comm/thread_comm.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>

#include "core/check.h"
#include "core/torch.h"
#include "tests/support/comm_conformance.h"

namespace facetrain {
namespace {

using testing::HasSubstr;

std::vector<conformance::Case> all_cases() {
  std::vector<conformance::Case> all = conformance::cases();
  all.insert(all.end(), conformance::ordered_cases().begin(), conformance::ordered_cases().end());
  return all;
}

class ThreadConformance : public testing::TestWithParam<std::tuple<conformance::Case, int>> {};

TEST_P(ThreadConformance, Holds) {
  const auto& [test, size] = GetParam();
  std::atomic<int> ran = 0;
  run_thread_ranks(size, [&, run = test.run, wanted = size](Communicator& comm) {
    EXPECT_EQ(comm.size(), wanted);
    run(comm);
    ++ran;
  });
  EXPECT_EQ(ran, size);
}

INSTANTIATE_TEST_SUITE_P(Ranks, ThreadConformance,
                         testing::Combine(testing::ValuesIn(all_cases()),
                                          testing::Values(1, 2, 3, 4)),
                         [](const auto& info) {
                           return std::get<0>(info.param).name + "_" +
                                  std::to_string(std::get<1>(info.param));
                         });

// The message of the Error that `body` on `size` ranks ends with.
std::string failure_of(int size, const std::function<void(Communicator&)>& body) {
  try {
    run_thread_ranks(size, body);
  } catch (const Error& error) {
    return error.what();
  }
  return "no failure";
}

TEST(ThreadComm, AFailureOfOneRankReleasesTheOthers) {
  std::atomic<int> released = 0;
  const std::string message = failure_of(3, [&](Communicator& comm) {
    if (comm.rank() == 2) FT_FAIL("rank 2 has had enough");
    try {
      comm.barrier();
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("rank 2 failed: rank 2 has had enough"));
      ++released;
      throw;
    }
  });
  EXPECT_EQ(message, "rank 2 has had enough");
  EXPECT_EQ(released, 2);
}

TEST(ThreadComm, OfSeveralFailuresTheLowestRanksIsReported) {
  EXPECT_EQ(failure_of(3, [](Communicator& comm) { FT_FAIL("from {}", comm.rank()); }), "from 0");
}

TEST(ThreadComm, ForeignExceptionsComeThroughToo) {
  EXPECT_THROW(run_thread_ranks(2,
                                [](Communicator& comm) {
                                  if (comm.rank() == 0) throw std::out_of_range("index");
                                  comm.barrier();
                                }),
               std::out_of_range);
}

TEST(ThreadComm, AWorkInFlightDoesNotHoldUpAnException) {
  const std::string message = failure_of(2, [](Communicator& comm) {
    const at::Tensor values = at::zeros({4});
    const Work work = comm.rank() == 0 ? comm.all_reduce(values, ReduceOp::kSum) : Work();
    if (comm.rank() == 0) FT_FAIL("after the post");
    comm.barrier();
  });
  EXPECT_EQ(message, "after the post");
}

TEST(ThreadComm, RanksThatDisagreeAreNamed) {
  const std::string counts = failure_of(3, [](Communicator& comm) {
    comm.all_reduce(at::zeros({comm.rank() == 1 ? 5 : 4}), ReduceOp::kSum).wait();
  });
  EXPECT_THAT(
      counts,
      HasSubstr("rank 1 calls all_reduce #0 of 5 Float at tests/unit/comm/thread_comm_test.cpp:"));
  const std::string kinds = failure_of(2, [](Communicator& comm) {
    if (comm.rank() == 1) return comm.barrier();
    comm.broadcast(at::zeros({4}), 0).wait();
  });
  EXPECT_THAT(kinds, HasSubstr("rank 1 calls barrier #0 at"));
}

TEST(ThreadComm, ARankThatEndsEarlyIsNamed) {
  const std::string message = failure_of(2, [](Communicator& comm) {
    if (comm.rank() == 1) comm.barrier();
  });
  EXPECT_THAT(message, HasSubstr("can never complete: rank 0 has ended without calling it"));
}

TEST(ThreadComm, ADeadlineNamesTheCollectiveAndWhoIsMissing) {
  std::atomic<bool> over = false;
  const std::string message = failure_of(2, [&](Communicator& comm) {
    if (comm.rank() == 1) {
      while (!over) std::this_thread::yield();
      return;
    }
    comm.set_deadline(std::chrono::milliseconds(50));
    const at::Tensor values = at::zeros({4});
    try {
      comm.all_reduce(values, ReduceOp::kSum).wait();
    } catch (...) {
      over = true;
      throw;
    }
  });
  EXPECT_THAT(message,
              HasSubstr("all_reduce #0 of 4 Float at tests/unit/comm/thread_comm_test.cpp:"));
  EXPECT_THAT(message, HasSubstr("did not complete within"));
  EXPECT_THAT(message, HasSubstr("rank 1 did not call it"));
}

TEST(ThreadComm, OneRankGathersItself) {
  const auto comms = make_thread_comms(1);
  EXPECT_EQ(comms[0]->size(), 1);
  const at::Tensor in = at::arange(6, at::kLong), out = at::zeros({2, 3}, at::kLong);
  comms[0]->all_gather(out, in).wait();
  EXPECT_TRUE(at::equal(out.view(-1), in));
}

// ---- debug fingerprints
// ---------------------------------------------------------------------------------------------------
class Fingerprints : public testing::Test {
 protected:
  void SetUp() override { setenv("FACETRAIN_COMM_DEBUG", "1", 1); }
  void TearDown() override { unsetenv("FACETRAIN_COMM_DEBUG"); }
};

TEST_F(Fingerprints, AgreeingRanksGoOn) {
  for (const int size : {1, 2, 4}) {
    run_thread_ranks(size, [](Communicator& comm) {
      for (const conformance::Case& test : conformance::cases()) test.run(comm);
    });
  }
}

TEST_F(Fingerprints, NameTheRankThatDisagreesAndBothCalls) {
  const std::string message = failure_of(4, [](Communicator& comm) {
    const at::Tensor values = at::zeros({8});
    comm.barrier();
    if (comm.rank() == 2) {
      comm.broadcast(values, 1).wait();
    } else {
      comm.all_reduce(values, ReduceOp::kMax).wait();
    }
  });
  EXPECT_THAT(message, HasSubstr("rank 2 disagrees: broadcast of 8 Float from rank 1 at "
                                 "tests/unit/comm/thread_comm_test.cpp:"));
  EXPECT_THAT(message, HasSubstr("ranks 0, 1 and 3 make: all_reduce(max) of 8 Float at "
                                 "tests/unit/comm/thread_comm_test.cpp:"));
}

TEST_F(Fingerprints, TellCallSitesApart) {
  const std::string message = failure_of(2, [](Communicator& comm) {
    const at::Tensor values = at::zeros({8});
    if (comm.rank() == 1) return comm.all_reduce(values, ReduceOp::kSum).wait();
    comm.all_reduce(values, ReduceOp::kSum).wait();
  });
  EXPECT_THAT(message, HasSubstr("rank 1 disagrees"));
}

}  // namespace
}  // namespace facetrain
