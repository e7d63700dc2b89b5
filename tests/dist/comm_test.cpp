// The conformance suite over MPI processes: plain, in chunks of a few elements, summed in rank
// order, staged; and the bits of MPI against those of thread ranks.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <mutex>

#include "comm/mpi_comm.h"
#include "comm/thread_comm.h"
#include "comm/world.h"
#include "core/check.h"
#include "core/torch.h"
#include "tests/dist/dist.h"
#include "tests/support/comm_conformance.h"

namespace facetrain {
namespace {

using conformance::Case;
using testing::HasSubstr;

class MpiConformance : public testing::TestWithParam<Case> {
 protected:
  void run(MpiCommOptions options) {
    MpiComm comm(MPI_COMM_WORLD, options);
    ASSERT_EQ(comm.size(), dist_comm().size());
    GetParam().run(comm);
  }
};
const auto name_of = [](const auto& info) { return info.param.name; };

TEST_P(MpiConformance, World) { GetParam().run(dist_comm()); }
TEST_P(MpiConformance, SmallChunks) { run({.max_count = 997, .deterministic = false}); }
TEST_P(MpiConformance, RankOrder) { run({.deterministic = true}); }
TEST_P(MpiConformance, RankOrderInSmallChunks) { run({.max_count = 997, .deterministic = true}); }
TEST_P(MpiConformance, Staged) { run({.stage_host_tensors = true}); }
INSTANTIATE_TEST_SUITE_P(All, MpiConformance, testing::ValuesIn(conformance::cases()), name_of);

class MpiOrdered : public MpiConformance {};
TEST_P(MpiOrdered, RankOrder) { run({.deterministic = true}); }
TEST_P(MpiOrdered, RankOrderInSmallChunks) { run({.max_count = 13, .deterministic = true}); }
INSTANTIATE_TEST_SUITE_P(All, MpiOrdered, testing::ValuesIn(conformance::ordered_cases()), name_of);

// Numbers for which the order of additions shows, from the rank.
at::Tensor rough(int rank, at::ScalarType type) {
  return at::arange(100'003, at::kDouble)
      .mul(1 + 0.1 * rank)
      .sin()
      .mul(rank % 2 ? 1e3 : 1e-3)
      .to(type);
}

TEST(Mpi, DeterministicSumsHaveTheBitsOfThreadRanks) {
  MpiComm comm(MPI_COMM_WORLD, {.deterministic = true});
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
    at::Tensor mine = rough(comm.rank(), type), of_threads;
    comm.all_reduce(mine, ReduceOp::kSum).wait();
    run_thread_ranks(comm.size(), [&](Communicator& threads) {
      at::Tensor values = rough(threads.rank(), type);
      threads.all_reduce(values, ReduceOp::kSum).wait();
      if (threads.rank() == 0) of_threads = values;
    });
    EXPECT_TRUE(at::equal(mine, of_threads)) << c10::toString(type);
  }
}

// MPI's own algorithms may add in another order, but always in the same, and with the same result
// on every rank.
TEST(Mpi, PlainSumsAreTheSameOnEveryRunAndRank) {
  Communicator& comm = dist_comm();
  for (const at::ScalarType type : {at::kFloat, at::kBFloat16}) {
    at::Tensor first = rough(comm.rank(), type);
    comm.all_reduce(first, ReduceOp::kSum).wait();
    for (int run = 0; run < 3; ++run) {
      at::Tensor again = rough(comm.rank(), type);
      comm.all_reduce(again, ReduceOp::kSum).wait();
      EXPECT_TRUE(at::equal(again, first)) << c10::toString(type);
    }
    at::Tensor of_rank_0 = first.clone();
    comm.broadcast(of_rank_0, 0).wait();
    EXPECT_TRUE(at::equal(of_rank_0, first)) << c10::toString(type);
  }
}

TEST(World, ChecksWhatMustBeTheSame) {
  Communicator& comm = dist_comm();
  check_same_on_all_ranks(comm, "the colour", "blue");
  if (comm.size() == 1) return;
  try {
    check_same_on_all_ranks(comm, "the colour", comm.rank() == 1 ? "red" : "blue");
    ADD_FAILURE() << "no error";
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("the colour wants to be the same on all ranks"));
    EXPECT_THAT(error.what(), HasSubstr("'red' on rank 1"));
  }
}

// FACETRAIN_TEST_HOSTS is set where ranks stand on several hosts, equally many on each
// (two_hosts.sh).
TEST(World, KnowsItsHostsAndThreads) {
  const char* text = std::getenv("FACETRAIN_TEST_HOSTS");
  const int hosts = text == nullptr ? 1 : std::atoi(text), size = dist_comm().size();
  EXPECT_EQ(dist_world().local_size(), size / hosts);
  EXPECT_LT(dist_world().local_rank(), size / hosts);
  EXPECT_EQ(dist_world().threads(), 1);
  EXPECT_EQ(dist_world().device(), at::Device(at::kCPU));
  const std::string ranks = size == 1 ? "1 rank, 1 thread, "
                            : hosts == 1
                                ? fmt::format("{} ranks, 1 thread each, ", size)
                                : fmt::format("{} ranks on {} hosts, 1 thread each, ", size, hosts);
  EXPECT_THAT(dist_world().describe(),
              testing::MatchesRegex(ranks + "MPI \\(Open MPI [0-9.]+[a-z0-9]*\\), cpu"));
}

TEST(Mpi, FingerprintsNameTheRankThatDisagrees) {
  setenv("FACETRAIN_COMM_DEBUG", "1", 1);
  {
    MpiComm comm(MPI_COMM_WORLD);
    comm.barrier();
    if (comm.size() > 1) {
      const at::Tensor values = at::zeros({comm.rank() == 1 ? 9 : 8});
      try {
        comm.all_reduce(values, ReduceOp::kSum).wait();
        ADD_FAILURE() << "no error";
      } catch (const Error& error) {
        EXPECT_THAT(
            error.what(),
            HasSubstr("rank 1 disagrees: all_reduce of 9 Float at tests/dist/comm_test.cpp:"));
      }
    }
  }
  unsetenv("FACETRAIN_COMM_DEBUG");
}

}  // namespace
}  // namespace facetrain
