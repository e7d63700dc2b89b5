// Optimizers with named state. What differs between them is one function over tensors; groups, rows
// and names live here.
//
// A sharded parameter may have a gradient for some rows only. `rows: sparse` moves just those;
// `rows: dense` also lets decay and momentum act on the others, as a zero gradient would.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "core/safetensors.h"
#include "core/torch.h"
#include "trainer/parameters.h"

namespace facetrain {

// Options that every optimizer has.
struct CommonOptimizerOptions {
  double lr = 0.1;
  double weight_decay = 5e-4;
  std::vector<std::string> no_decay;
  Config rules;  // list of {match: RULE, lr_scale: .., weight_decay: ..}, later ones win
  void common_fields(auto& f) {
    f("lr", lr, at_least(0), "base learning rate; the schedule multiplies it");
    f("weight_decay", weight_decay, range(0, 10),
      "decay of every trained tensor that no_decay does not name");
    f("no_decay", no_decay, "rules that exempt from decay: globs on names ('*.bias') or 'rank<2'");
    f("rules", rules, "list of {match: RULE, lr_scale: 1, weight_decay: W}; later ones win");
  }
};

// Checks `rules` and fills in its defaults; a registry's resolve() sees no items of lists.
void resolve_rules(const Config& rules);

struct ParamGroup {
  double lr_scale = 1, weight_decay = 0;
  std::vector<Parameter> parameters;
};
// Groups by rule on (name, rank); parameters that update themselves are left out. A rule that
// matches nothing is an error.
std::vector<ParamGroup> make_groups(const std::vector<Parameter>& parameters,
                                    const CommonOptimizerOptions& options);

struct UpdateStep {
  double lr = 0;       // of this step, schedule included
  int64_t number = 1;  // of updates, this one included (bias correction)
  std::function<bool(const torch::Tensor&)>
      reached;  // parameters that no rank's backward reached are left alone
};

class Optimizer {
 public:
  static constexpr const char* kKind = "optimizer";
  virtual ~Optimizer() = default;

  const CommonOptimizerOptions& options() const { return options_; }
  const std::vector<ParamGroup>& groups() const { return groups_; }
  // Told to modules that update themselves; 0 for optimizers without one.
  virtual double momentum() const { return 0; }
  // Gradients are already averaged, unscaled and clipped.
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
  // Tensors of one group with their gradients; states[s][i] is state s of tensor i. In place.
  virtual void update(torch::TensorList tensors, torch::TensorList gradients,
                      const std::vector<std::vector<torch::Tensor>>& states, double lr,
                      double weight_decay, int64_t number) = 0;

 private:
  void update_rows(const Parameter& parameter, std::vector<torch::Tensor>& states, double lr,
                   double weight_decay, int64_t number);
  CommonOptimizerOptions options_;
  std::vector<std::string> state_names_;
  std::vector<ParamGroup> groups_;
  std::vector<std::vector<std::vector<torch::Tensor>>> states_;  // [group][parameter][state]
};
using Optimizers = Registry<Optimizer, const std::vector<Parameter>&>;

}  // namespace facetrain
