// Start and end of the process's part in a job: MPI, the communicator, the device, threads,
// signals, the way out.
#pragma once

#include <c10/core/Device.h>

#include <memory>
#include <string>

#include "comm/communicator.h"

namespace facetrain {

struct WorldOptions {
  std::string device = "cpu";  // "cpu", "cuda" (one GPU a rank of the host), "cuda:N"
  int threads =
      0;  // ATen threads a rank; 0: cores of the affinity mask divided by the ranks on this host
};

// One object for the life of the process; starts MPI when launched by mpirun, else is one rank
// without it. When an exception passes, the destructor leaves MPI running, so that fail_world can
// still tell the other ranks.
class World {
 public:
  static std::unique_ptr<World> create(const WorldOptions& options);
  ~World();  // **Collective**: finalises MPI
  Communicator& comm();
  c10::Device device() const;
  int local_rank() const;  // rank among those of this host
  int local_size() const;
  int threads() const;  // ATen threads set for this rank
  // "4 ranks on 2 hosts, 2 threads each, MPI (Open MPI 4.1.4), cpu"
  std::string describe() const;

 private:
  World();
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

// Ends the whole job from one failed rank: tells the other ranks to leave quietly, then MPI_Abort.
// Prints `message` to standard error, once: when several ranks fail together (a wrong configuration
// fails all of them), only the lowest of them prints. Never returns. Safe without a World (exits).
// What main() calls with "[rank 3] file:line: message".
[[noreturn]] void fail_world(int exit_code, const std::string& message);

// Signals. SIGUSR1: checkpoint at the next step boundary and exit 85. SIGTERM the same, and every
// deadline becomes 5 s.
void install_signal_handlers();
bool checkpoint_requested();  // this rank has seen a signal; the trainer makes it common to all
                              // ranks in the verdict

// Throws unless `value` is the same on every rank, naming the ranks that differ. **Collective.**
void check_same_on_all_ranks(Communicator& comm, const std::string& what, const std::string& value);

}  // namespace facetrain
