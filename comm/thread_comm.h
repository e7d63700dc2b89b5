// N ranks as N threads of one process: distributed logic in plain unit tests, under gdb, ASan and
// TSan.
//
// Reductions are done in rank order by the last rank to arrive, so results are the same bits on
// every run.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "comm/communicator.h"

namespace facetrain {

// One communicator a rank, sharing one hub.
std::vector<std::shared_ptr<Communicator>> make_thread_comms(int size);

// Runs `body(comm)` on `size` threads, one a rank, and waits for all. The first exception (lowest
// rank whose failure was not caused by another's) is rethrown; the other ranks are released from
// their collectives with an error.
void run_thread_ranks(int size, const std::function<void(Communicator&)>& body);

}  // namespace facetrain
