#include "trainer/schedule.h"

#include <cmath>
#include <numbers>

namespace facetrain {

double Schedule::factor(const Progress& at) const {
  const int64_t warmup = warmup_.steps(at.steps_per_epoch);
  if (at.step < warmup) {
    const auto done = static_cast<double>(at.step), all = static_cast<double>(warmup);
    return warmup_from_ < 0 ? (done + 1) / all : warmup_from_ + (1 - warmup_from_) * done / all;
  }
  const auto remaining = static_cast<double>(std::max<int64_t>(at.total - warmup, 1));
  return shape(static_cast<double>(at.step - warmup) / remaining, at);
}

namespace {

// The options that every schedule has.
struct WarmupOptions {
  Duration warmup;
  double warmup_from = -1;
  void warmup_fields(auto& f) {
    f("warmup", warmup, at_least(0), "linear rise to lr; steps or 'N epochs'");
    f("warmup_from", warmup_from, range(-1, 1),
      "factor of lr at step 0 of the warm-up (0: lr t / warmup, as MAE; SwAV 0.3 / 4.8); -1: lr / "
      "warmup");
  }
};

struct ConstantOptions : WarmupOptions {
  void fields(auto& f) { warmup_fields(f); }
};
class Constant : public Schedule {
 public:
  explicit Constant(const ConstantOptions& options)
      : Schedule(options.warmup, options.warmup_from) {}

 protected:
  double shape(double, const Progress&) const override { return 1; }
};

struct StepOptions : WarmupOptions {
  std::vector<Duration> milestones;
  double gamma = 0.1;
  void fields(auto& f) {
    warmup_fields(f);
    f("milestones", milestones, "where the rate is multiplied by gamma; steps or 'N epochs'");
    f("gamma", gamma, range(1e-6, 1), "factor at each milestone");
  }
};
class Step : public Schedule {
 public:
  explicit Step(StepOptions options)
      : Schedule(options.warmup, options.warmup_from), options_(std::move(options)) {}

 protected:
  double shape(double, const Progress& at) const override {
    double factor = 1;
    for (const Duration& milestone : options_.milestones)
      if (at.step >= milestone.steps(at.steps_per_epoch)) factor *= options_.gamma;
    return factor;
  }

 private:
  StepOptions options_;
};

struct PolyOptions : WarmupOptions {
  double power = 1, final = 0;
  void fields(auto& f) {
    warmup_fields(f);
    f("power", power, range(0.1, 10), "lr (1 - t)^power; 1 is the linear decay of arcface_torch");
    f("final", final, range(0, 1), "factor at the end");
  }
};
class Poly : public Schedule {
 public:
  explicit Poly(const PolyOptions& options)
      : Schedule(options.warmup, options.warmup_from), options_(options) {}

 protected:
  double shape(double part, const Progress&) const override {
    return options_.final + (1 - options_.final) * std::pow(1 - part, options_.power);
  }

 private:
  PolyOptions options_;
};

struct CosineOptions : WarmupOptions {
  double final = 0;
  void fields(auto& f) {
    warmup_fields(f);
    f("final", final, range(0, 1), "factor at the end");
  }
};
class Cosine : public Schedule {
 public:
  explicit Cosine(const CosineOptions& options)
      : Schedule(options.warmup, options.warmup_from), final_(options.final) {}

 protected:
  double shape(double part, const Progress&) const override {
    return final_ + (1 - final_) * 0.5 * (1 + std::cos(std::numbers::pi * part));
  }

 private:
  double final_;
};

const bool constant =
    Schedules::get().add<Constant, ConstantOptions>("constant", "the base rate throughout");
const bool step = Schedules::get().add<Step, StepOptions>("step", "drops by gamma at milestones");
const bool poly =
    Schedules::get().add<Poly, PolyOptions>("poly", "polynomial decay to the end of the run");
const bool cosine = Schedules::get().add<Cosine, CosineOptions>(
    "cosine", "half a cosine to the end of the run (Loshchilov, Hutter 2017)");

}  // namespace
}  // namespace facetrain
