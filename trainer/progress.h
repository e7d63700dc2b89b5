// Where a run stands. A value: the whole state of the loop besides tensors.
#pragma once

#include <cstdint>

namespace facetrain {

struct Progress {
  int64_t step = 0;   // optimizer steps done; the step that runs now has this number
  int64_t total = 0;  // of the run
  double steps_per_epoch = 1;

  double epoch() const { return static_cast<double>(step) / steps_per_epoch; }
};

// What a checkpoint keeps of the loop.
struct TrainState {
  int64_t step = 0;
  int64_t samples = 0;  // seen so far, over all ranks
  int64_t updates =
      0;  // steps that changed parameters (skipped ones do not): AdamW's bias correction
  int64_t skipped = 0;  // of the whole run
  int64_t skipped_in_row = 0;
  double loss_scale = 1;     // fp16 only
  int64_t scale_streak = 0;  // finite steps since the scale last changed
  double best = 0;           // best value of checkpoint.keep_best so far
  bool has_best = false;
};

}  // namespace facetrain
