// State that a forward wants to change: kept aside, made equal over ranks, committed after the
// step's verdict.
//
// A forward changes no buffer (DESIGN section 3, "Buffers"). A module that has running statistics
// inherits Deferred and keeps what it saw; the trainer finds all of them in recipe->modules(),
// averages what they collect over ranks in one flat reduction beside the verdict, and then calls
// commit() on all ranks, or discard() when the step is skipped.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace facetrain {

class Deferred {
 public:
  virtual ~Deferred() = default;
  // Appends tensors that the trainer averages over ranks in place (floating point, on the module's
  // device, the same number, shape and order on every rank). Statistics that are already equal on
  // all ranks append nothing.
  virtual void collect(std::vector<at::Tensor>& averaged) = 0;
  // Writes the statistics into the buffers and forgets them.
  virtual void commit() = 0;
  virtual void discard() = 0;
};

}  // namespace facetrain
