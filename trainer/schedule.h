// Learning-rate schedules: a factor of the base rate, as a function of the step. One file: they are
// a few lines each.
#pragma once

#include "core/registry.h"
#include "trainer/progress.h"

namespace facetrain {

class Schedule {
 public:
  static constexpr const char* kKind = "schedule";
  virtual ~Schedule() = default;
  // The factor of optimizer.lr at a step, warm-up included.
  double factor(const Progress& at) const;
  int64_t warmup_steps(double steps_per_epoch) const { return warmup_.steps(steps_per_epoch); }

 protected:
  // `warmup_from`: factor at step 0 of the warm-up; below 0: one step of it.
  Schedule(const Duration& warmup, double warmup_from)
      : warmup_(warmup), warmup_from_(warmup_from) {}
  // After the warm-up; `part` is the share of the steps after it that are done, in [0, 1).
  virtual double shape(double part, const Progress& at) const = 0;

 private:
  Duration warmup_;
  double warmup_from_;
};
using Schedules = Registry<Schedule>;

}  // namespace facetrain
