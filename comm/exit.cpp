// fail_world and the signals: declared in world.h.
#include "comm/exit.h"

#include <mpi.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>

#include "comm/deadline.h"
#include "comm/mpi_comm.h"
#include "comm/world.h"
#include "core/check.h"

namespace facetrain {
namespace {

std::atomic<MpiComm*> exit_comm{nullptr};
std::atomic<bool> checkpoint_wanted{false};

bool mpi_runs() {
  int started = 0, ended = 0;
  MPI_Initialized(&started);
  MPI_Finalized(&ended);
  return started && !ended;
}

void on_signal(int signal) {
  checkpoint_wanted = true;
  if (signal == SIGTERM) shorten_all_deadlines();
}

}  // namespace

void set_exit_comm(MpiComm* comm) { exit_comm = comm; }

void fail_world(int exit_code, const std::string& message) {
  std::fflush(stdout);
  std::fflush(stderr);
  if (MpiComm* comm = exit_comm.load()) comm->leave(exit_code, message);
  // Before MPI runs, what is wrong is wrong on every rank (a mistyped key): rank 0 says it, and
  // mpirun ends the others.
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  if (!mpi_runs() && rank != nullptr && std::string(rank) != "0")
    std::this_thread::sleep_for(std::chrono::seconds(3));
  std::fputs((message + "\n").c_str(), stderr);
  std::fflush(stderr);
  if (mpi_runs()) {
    exit_after(std::chrono::seconds(3), exit_code);
    MPI_Abort(MPI_COMM_WORLD, exit_code);
  }
  _exit(exit_code);
}

void install_signal_handlers() {
  struct sigaction action = {};
  action.sa_handler = on_signal;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (const int signal : {SIGUSR1, SIGTERM}) {
    FT_CHECK(sigaction(signal, &action, nullptr) == 0, "cannot install a handler for signal {}",
             signal);
  }
}

bool checkpoint_requested() { return checkpoint_wanted; }

}  // namespace facetrain
