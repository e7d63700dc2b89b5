// What every communicator must do, as functions that each rank calls: the same suite for threads,
// MPI and NCCL.
//
// Every case uses values that differ by rank and expectations from closed forms; `expected_size` is
// asserted by the caller. Cases are listed by name so that a suite can be instantiated over them.
#pragma once

#include <c10/core/Device.h>

#include <string>
#include <vector>

#include "comm/communicator.h"

namespace facetrain::conformance {

struct Case {
  std::string name;
  void (*run)(Communicator& comm);
};
// For gtest: the case's name in the test's name.
inline void PrintTo(const Case& test, std::ostream* out) { *out << test.name; }

// Where the cases' tensors lie from now on: the CPU at first.
void set_device(c10::Device device);

// Collectives and what is built on them: any communicator.
const std::vector<Case>& cases();
// Equal bits to a sum in rank order: ThreadComm, and MpiComm with deterministic reductions.
const std::vector<Case>& ordered_cases();

}  // namespace facetrain::conformance
