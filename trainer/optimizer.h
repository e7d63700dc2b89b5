// Optimizers with named state. What differs between them is one function over tensors; groups, rows
// and names live here.
//
// Groups follow rules on (name, rank of the tensor, layer of its network); each has a factor of the
// learning rate, a weight decay that may change during the run, and a step before which its tensors
// stay as they are. A sharded parameter may have a gradient for some rows only. `rows: sparse`
// moves just those; `rows: dense` also lets decay and momentum act on the others, as a zero
// gradient would.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "core/safetensors.h"
#include "core/torch.h"
#include "trainer/parameters.h"
#include "trainer/progress.h"

namespace facetrain {

// Options that every optimizer has.
struct CommonOptimizerOptions {
  double lr = 0.1;
  Scheduled weight_decay = 5e-4;
  double layer_decay = 1;
  std::vector<std::string> no_decay;
  Config rules;  // list of GroupRule (optimizer.cpp), later ones win
  void common_fields(auto& f) {
    f("lr", lr, at_least(0), "base learning rate; the schedule multiplies it");
    f("weight_decay", weight_decay, range(0, 10),
      "decay of every trained tensor that no_decay does not name; may change: {at: [0, '100 "
      "epochs'], value: [0.04, 0.4], interpolate: cosine}");
    f("layer_decay", layer_decay, range(0.01, 1),
      "d: layer i of a network's layers 0 ... n learns with lr d^(n - i), heads with lr; 1: off");
    f("no_decay", no_decay, "rules that exempt from decay: globs on names ('*.bias') or 'rank<2'");
    f("rules", rules,
      "list of {match: RULE, lr_scale: 1, weight_decay: W, from: '1 epochs'}; RULE is a glob on "
      "names, 'rank<2' or 'layer<4'; before `from` a tensor stays as it is; later ones win, key by "
      "key");
  }
};

// Checks `rules` and fills in its defaults; a registry's resolve() sees no items of lists.
void resolve_rules(const Config& rules);

struct ParamGroup {
  double lr_scale = 1;
  Scheduled weight_decay = 0;
  Duration from;      // before this step: no update, no decay, no state
  bool adapt = true;  // false: lars leaves these tensors without decay and trust ratio
  std::vector<Parameter> parameters;
};
// Groups by rule on (name, rank, layer); parameters that update themselves are left out. A rule
// that matches nothing is an error. Tensors that `unadapted` matches get adapt = false and no
// decay.
std::vector<ParamGroup> make_groups(const std::vector<Parameter>& parameters,
                                    const CommonOptimizerOptions& options,
                                    const std::vector<std::string>& unadapted = {});
// "12 tensors, 3,072 numbers: lr x 0.65, weight decay 0.05, from 1 epochs"; rows of all ranks
// count.
std::string describe(const ParamGroup& group);

// Σ x² of each tensor in double, [n] on the CPU; those without a value or elements count 0.
torch::Tensor square_sums(const std::vector<torch::Tensor>& tensors);

struct UpdateStep {
  double lr = 0;       // of this step, schedule included
  int64_t number = 1;  // of updates, this one included (bias correction)
  std::function<bool(const torch::Tensor&)>
      reached;  // parameters that no rank's backward reached are left alone
  Progress progress{};
  Communicator* comm = nullptr;  // for norms of tensors; none: this is the only rank
};

class Optimizer {
 public:
  static constexpr const char* kKind = "optimizer";
  virtual ~Optimizer() = default;

  const CommonOptimizerOptions& options() const { return options_; }
  const std::vector<ParamGroup>& groups() const { return groups_; }
  // Told to modules that update themselves; 0 for optimizers without one.
  virtual double momentum() const { return 0; }
  // False where rows of a sharded parameter cannot be updated without the others: sampled rows are
  // an error of step() then.
  virtual bool updates_rows() const { return true; }
  // **Collective.** Gradients are already averaged, unscaled and clipped; they may be overwritten.
  void step(const UpdateStep& at);

  // A state tensor of a parameter: "<parameter>.<state>"; sharded like its parameter.
  struct State {
    std::string name;
    torch::Tensor tensor;
    const Parameter* parameter;
  };
  std::vector<State> state();

 protected:
  Optimizer(const CommonOptimizerOptions& options, std::vector<std::string> state_names,
            std::vector<ParamGroup> groups);
  // What a step moves, but for rows.
  struct Item {
    const Parameter* parameter;
    torch::Tensor gradient;  // undefined where this rank's rows of a sharded tensor have none
    double weight_decay;
    bool adapt;
  };
  // **Collective.** Once a step before its updates; may change the gradients in place.
  virtual void prepare(const std::vector<Item>&, Communicator*) {}
  // Tensors of one group with their gradients; states[s][i] is state s of tensor i. In place.
  virtual void update(torch::TensorList tensors, torch::TensorList gradients,
                      const std::vector<std::vector<torch::Tensor>>& states, double lr,
                      double weight_decay, int64_t number) = 0;

 private:
  // The parameters of a group that this step updates as a whole, with their indices in the group.
  std::vector<std::pair<size_t, Item>> items(const ParamGroup& group, const UpdateStep& at) const;
  void update_group(size_t g, const std::vector<std::pair<size_t, Item>>& items,
                    const UpdateStep& at);
  void update_rows(const Parameter& parameter, std::vector<torch::Tensor>& states, double lr,
                   double weight_decay, int64_t number);
  CommonOptimizerOptions options_;
  std::vector<std::string> state_names_;
  std::vector<ParamGroup> groups_;
  std::vector<std::vector<std::vector<torch::Tensor>>> states_;  // [group][parameter][state]
};
using Optimizers = Registry<Optimizer, const std::vector<Parameter>&>;

}  // namespace facetrain
