// What the way out needs to know: the communicator whose communication thread tells the other
// ranks.
#pragma once

namespace facetrain {

class MpiComm;

// Set by World while MPI runs; nullptr: leaving is exiting. MPI that runs without a communicator is
// aborted.
void set_exit_comm(MpiComm* comm);

}  // namespace facetrain
