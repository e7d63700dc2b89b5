// The loop. We own it, so we know when backward ends: no reducer that guesses, no callback that
// changes a step.
#pragma once

#include <chrono>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "comm/grad_reducer.h"
#include "core/deferred.h"
#include "core/torch.h"
#include "trainer/checkpointer.h"
#include "trainer/ema.h"
#include "trainer/feed.h"
#include "trainer/optimizer.h"
#include "trainer/phase_clock.h"
#include "trainer/precision.h"
#include "trainer/recipe.h"
#include "trainer/reporter.h"
#include "trainer/run_options.h"
#include "trainer/schedule.h"

namespace facetrain {

// The parts of a run, made by run.cpp and outliving the trainer.
struct TrainerParts {
  Recipe& recipe;
  Feed& feed;
  ParameterList& parameters;
  Optimizer& optimizer;
  const Schedule& schedule;
  GradReducer& reducer;
  Ema& ema;
  Checkpointer& checkpointer;
  Reporter& reporter;
  Communicator& comm;
  c10::Device device;
  std::vector<EvaluationSet> evaluation_sets;
};

// What the loop needs to know of the configuration, most durations already in steps.
struct LoopOptions {
  int64_t total_steps = 0;
  double steps_per_epoch = 1;
  Duration checkpoint_every, evaluate_every;  // 0: only the last step; never
  int64_t log_every = 0;
  uint64_t seed = 0;
  int64_t batch_size = 0;
  TrainerOptions trainer;
  std::string keep_best;
  std::string config;  // resolved, for the checkpoints
};

// Everything of a run that a checkpoint holds: replicated and sharded tensors, averages, optimizer
// state.
CheckpointTensors live_tensors(Recipe& recipe, const ParameterList& parameters,
                               Optimizer& optimizer, const Ema& ema);

enum class RunEnd { kDone, kCheckpointedOnSignal };

class Trainer {
 public:
  Trainer(TrainerParts parts, LoopOptions options);
  // **Collective.** From `state.step` to the last step.
  RunEnd run(TrainState& state);

 private:
  // What all ranks agree on after a backward.
  struct Verdict {
    bool finite = true;
    bool signal = false;
    double norm = 0;  // 2-norm of the unscaled gradient in the scope of trainer.clip
    std::vector<double> tensor_norms;  // of each trained parameter; only for clip_scope tensor
    double parts_written = 0, parts_failed = 0;
  };
  void backward(std::vector<Batch>& batches, const Progress& at);
  std::map<std::string, double> global_counts(const std::vector<Batch>& batches);
  void tell_own_updates(double divisor, bool last, const Progress& at);
  Verdict judge();
  double clip_factor(const Verdict& verdict, size_t parameter) const;
  void update(const Verdict& verdict, const Progress& at);
  void skip(const Progress& at);
  void log(const Verdict& verdict, const Progress& at);
  void evaluate(bool& is_best);
  // Whether these are the best figures so far, by checkpoint.keep_best.
  bool take_best(const std::map<std::string, double>& figures);
  void save(bool best);
  Progress progress() const;
  bool due(const Duration& every) const {
    return every.due(state_->step, options_.steps_per_epoch);
  }

  TrainerParts parts_;
  LoopOptions options_;
  Precision precision_;
  std::vector<Deferred*> deferred_;
  TrainState* state_ = nullptr;
  torch::Tensor loss_;  // of this step: this rank's share of the global mean
  Metrics metrics_;
  PhaseClock clock_;
};

}  // namespace facetrain
