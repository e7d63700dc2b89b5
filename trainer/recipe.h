// A task: networks, losses, and what one step of it computes. One file a task in trainer/recipes/.
//
// Everything that must survive a restart is a registered parameter or buffer (queues, centres,
// teachers, counters): no recipe writes save or load code. A recipe runs forward only;
// accumulation, precision, clipping, reduction and skipping are the trainer's. Batch contents may
// differ between ranks, control flow may not.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/registry.h"
#include "core/torch.h"
#include "data/batch.h"
#include "data/loader.h"
#include "data/source.h"
#include "eval/protocol.h"
#include "models/backbone.h"
#include "trainer/metrics.h"
#include "trainer/progress.h"

namespace facetrain {

// One part of the loss: its value is Σ sum / Σ count over all ranks and micro-batches
// (comm/collectives.h).
struct LossTerm {
  std::string name;   // "loss", or the name that counts() uses
  torch::Tensor sum;  // scalar: over this rank's units of this micro-batch
  double weight = 1;
};
struct StepOutput {
  std::vector<LossTerm> terms;
  Metrics metrics;  // further means to log
};

// What a recipe is built from.
struct RecipeContext {
  Config root;  // the whole configuration; a recipe reads the sections that its kSections names
  Communicator& comm;
  c10::Device device;
  uint64_t seed = 0;
  int64_t identities = 0;  // of the joined training sets
  int64_t image_size = 0;  // data.size, 0: the network's own
  Normalization normalization;
};

class Recipe : public torch::nn::Module {
 public:
  static constexpr const char* kKind = "recipe";

  // Label columns that its batches must carry.
  virtual std::vector<std::string> columns() const { return {"identity"}; }
  // Further streams that its batches must carry (Batch::streams), configured in data.streams.
  virtual std::vector<std::string> streams() const { return {}; }
  // **Collective** allowed. Once a step, with all of this rank's micro-batches, before the first
  // forward.
  virtual void prepare(std::span<const Batch>, const Progress&) {}
  // This rank's units of each loss term over all micro-batches of the step; a term that is not
  // named here counts rows.
  virtual std::map<std::string, double> counts(std::span<const Batch>) const { return {}; }
  // The forward of one micro-batch. Runs under the trainer's precision and StepScope.
  virtual StepOutput step(const Batch& batch, const Progress& at) = 0;
  // After the parameters changed: moving averages of teachers, queues. Not called for a skipped
  // step.
  virtual void after_update(const Progress&) {}
  // **Collective.** Figures of the named sets ("lfw.accuracy"), the same on every rank. The module
  // is in eval mode.
  virtual std::map<std::string, double> evaluate(std::span<const EvaluationSet>) { return {}; }
  // The network that a user takes away; its public names stand under `backbone.` in checkpoints.
  virtual Backbone& exported() = 0;
};
using Recipes = Registry<Recipe, const RecipeContext&>;

// Checks the whole configuration and fills in every default, without making anything: the root
// sections that the recipe's `kSections` names are resolved by what they say; a section that the
// recipe does not read is an error.
void resolve_config(Config& root);

}  // namespace facetrain
