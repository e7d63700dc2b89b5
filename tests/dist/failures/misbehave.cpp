// A small job whose ranks go wrong in the way that the argument names; failures_test.sh looks at
// how it ends.

#include <chrono>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>

#include "comm/world.h"
#include "core/check.h"
#include "core/torch.h"

namespace facetrain {
namespace {

// One "step" of 20 ms and its collective.
void step(Communicator& comm) {
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const at::Tensor values = at::full({1000}, comm.rank());
  comm.all_reduce(values, ReduceOp::kSum).wait();
}

int64_t now_ms() {
  const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::milliseconds>(since_epoch).count();
}

[[noreturn]] void sleep_forever() {
  for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
}

// Steps until any rank has seen a signal; the exit code is that of a checkpointed run.
int until_signal(Communicator& comm) {
  for (int64_t i = 0;; ++i) {
    step(comm);
    const at::Tensor seen = at::full({1}, checkpoint_requested(), at::kInt);
    comm.all_reduce(seen, ReduceOp::kMax).wait();
    if (i == 5 && comm.rank() == 0) std::puts("running"), std::fflush(stdout);
    if (seen.item<int>() == 0) continue;
    if (comm.rank() == 0) std::puts("checkpointed"), std::fflush(stdout);
    return 85;
  }
}

int run(const std::string& how, Communicator& comm) {
  if (how == "until_signal") return until_signal(comm);
  for (int i = 0; i < 5; ++i) step(comm);
  const bool last = comm.rank() == comm.size() - 1;
  // From here on the job may take 10 s to end: the start of four processes is not what is measured.
  if (last) std::printf("at %lld\n", static_cast<long long>(now_ms())), std::fflush(stdout);
  if (how == "throw_in_step" && last) FT_FAIL("the last rank wanted a face, found none");
  if (how == "throw_while_others_compute") {
    if (last) FT_FAIL("the last rank wanted a face, found none");
    sleep_forever();
  }
  if (how == "throw_everywhere") FT_FAIL("no rank can read the data");
  if (how == "work_in_flight") {
    const at::Tensor values = at::zeros({4});
    const Work work = comm.all_reduce(values, ReduceOp::kSum);
    if (last) FT_FAIL("the last rank wanted a face, found none");
  }
  if (how == "killed" && last) raise(SIGKILL);
  if (how == "hangs" && last) sleep_forever();
  for (int i = 0; i < 5; ++i) step(comm);
  return 0;
}

}  // namespace
}  // namespace facetrain

int main(int argc, char** argv) {
  using namespace facetrain;
  int rank = 0;
  try {
    const auto world = World::create({.device = argc > 2 ? argv[2] : "cpu", .threads = 1});
    rank = world->comm().rank();
    install_signal_handlers();
    return run(argc > 1 ? argv[1] : "", world->comm());
  } catch (const Error& error) {
    fail_world(1, fmt::format("[rank {}] {}: {}", rank, error.place(), error.what()));
  }
}
