// What tests under mpirun share.
#pragma once

#include "comm/world.h"

namespace facetrain {

// The world and its communicator. Every test is called by all ranks in the same order.
World& dist_world();
Communicator& dist_comm();

}  // namespace facetrain
