// Gradients are views into flat buckets, averaged over ranks in a fixed order while backward runs.
//
// Parameters fill buckets in reverse order of registration, a bucket per dtype; p.grad is a view
// into its bucket (strides kept), so autograd accumulates in place. A post-accumulate hook counts a
// bucket down; bucket i is reduced when it and all before it are full, so every rank issues the
// same sequence. finish() launches what is left and waits. Each bucket carries one element a
// parameter: how many ranks' backward reached it.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "comm/communicator.h"

namespace facetrain {

struct GradReducerOptions {
  int64_t bucket_bytes = 16 << 20;
  bool overlap = true;  // false: all buckets are launched in finish(); the same bits
};

class GradReducer {
 public:
  // Replicated parameters only: sharded ones are exact and are not given to the reducer.
  GradReducer(std::vector<std::pair<std::string, at::Tensor>> parameters, Communicator& comm,
              GradReducerOptions options = {});
  ~GradReducer();
  GradReducer(const GradReducer&) = delete;
  GradReducer& operator=(const GradReducer&) = delete;

  // Zeroes gradients and counts: one memset a bucket. Before the first backward of a step.
  void zero();
  // Before each backward; `last` allows reduction during it (all micro-batches but the last only
  // accumulate).
  void begin(bool last);
  // **Collective.** Reduces what is left, waits, divides by size().
  void finish();
  // True when at least one rank's backward of this step reached the parameter; valid after
  // finish(). A parameter that none reached gets no step, no decay, no moment.
  bool reached(const at::Tensor& parameter) const;
  // Another set of parameters from now on; legal between steps. **Collective** in the sense that
  // all ranks must do it.
  void rebuild(std::vector<std::pair<std::string, at::Tensor>> live);

 private:
  struct Parts;
  std::unique_ptr<Parts> parts_;
};

}  // namespace facetrain
