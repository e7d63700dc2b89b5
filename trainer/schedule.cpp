#include "trainer/schedule.h"

#include <cmath>
#include <numbers>

namespace facetrain {

double Schedule::factor(const Progress& at) const {
  const int64_t warmup = warmup_.steps(at.steps_per_epoch);
  if (at.step < warmup) return static_cast<double>(at.step + 1) / static_cast<double>(warmup);
  const auto remaining = static_cast<double>(std::max<int64_t>(at.total - warmup, 1));
  return shape(static_cast<double>(at.step - warmup) / remaining, at);
}

namespace {

constexpr const char* kWarmup = "linear rise from lr / warmup to lr; steps or 'N epochs'";

struct ConstantOptions {
  Duration warmup;
  void fields(auto& f) { f("warmup", warmup, at_least(0), kWarmup); }
};
class Constant : public Schedule {
 public:
  explicit Constant(const ConstantOptions& options) : Schedule(options.warmup) {}

 protected:
  double shape(double, const Progress&) const override { return 1; }
};

struct StepOptions {
  Duration warmup;
  std::vector<Duration> milestones;
  double gamma = 0.1;
  void fields(auto& f) {
    f("warmup", warmup, at_least(0), kWarmup);
    f("milestones", milestones, "where the rate is multiplied by gamma; steps or 'N epochs'");
    f("gamma", gamma, range(1e-6, 1), "factor at each milestone");
  }
};
class Step : public Schedule {
 public:
  explicit Step(StepOptions options) : Schedule(options.warmup), options_(std::move(options)) {}

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

struct PolyOptions {
  Duration warmup;
  double power = 1, final = 0;
  void fields(auto& f) {
    f("warmup", warmup, at_least(0), kWarmup);
    f("power", power, range(0.1, 10), "lr (1 - t)^power; 1 is the linear decay of arcface_torch");
    f("final", final, range(0, 1), "factor at the end");
  }
};
class Poly : public Schedule {
 public:
  explicit Poly(const PolyOptions& options) : Schedule(options.warmup), options_(options) {}

 protected:
  double shape(double part, const Progress&) const override {
    return options_.final + (1 - options_.final) * std::pow(1 - part, options_.power);
  }

 private:
  PolyOptions options_;
};

struct CosineOptions {
  Duration warmup;
  double final = 0;
  void fields(auto& f) {
    f("warmup", warmup, at_least(0), kWarmup);
    f("final", final, range(0, 1), "factor at the end");
  }
};
class Cosine : public Schedule {
 public:
  explicit Cosine(const CosineOptions& options) : Schedule(options.warmup), final_(options.final) {}

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
