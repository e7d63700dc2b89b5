// Parameters of which each rank holds some rows of a whole, and modules that update such rows
// themselves.
//
// A module with sharded parameters inherits ShardOwner; the trainer finds it in recipe->modules().
// Its gradients are exact on each rank: the reducer never sees them, the optimizer, the global norm
// and the checkpoint do.
#pragma once

#include <ATen/core/Tensor.h>

#include <string>
#include <utility>
#include <vector>

namespace facetrain {

// A parameter that is a slice of a whole: what checkpoints, the optimizer and the norm need to know
// of it.
struct ShardedParameter {
  std::string name;           // in the module that owns it: "weight"
  int64_t begin, end, total;  // rows of dimension 0
};
// Mixed into modules that own such parameters.
class ShardOwner {
 public:
  virtual ~ShardOwner() = default;
  virtual std::vector<ShardedParameter> sharded() const = 0;
  // The rows (local, ascending, int64) that this step's gradient covers; undefined: all. When
  // defined, the parameter's grad is [rows, ...] in `row_gradient`, and its dense .grad stays
  // undefined.
  virtual at::Tensor touched_rows(const std::string&) const { return {}; }
  virtual at::Tensor row_gradient(const std::string&) const { return {}; }
  virtual bool update_untouched_rows(const std::string&) const { return true; }  // rows: dense
  virtual void zero_grad_rows() {}
};

// What a module that updates its own sharded rows is told before each backward (the fused
// classifier will be one).
struct UpdateSettings {
  double lr = 0, weight_decay = 0, momentum = 0;
  double loss_divisor = 1, loss_scale = 1, clip = 0;
  bool last_micro_batch = true;
};
class OwnUpdate {
 public:
  virtual ~OwnUpdate() = default;
  virtual void set_update(const UpdateSettings& settings) = 0;
  // Names (in the module) of the parameters that the optimizer must skip, and their state for the
  // checkpoint, sharded like the parameter: "momentum" of "weight".
  struct State {
    std::string parameter, name;
    at::Tensor tensor;
  };
  virtual std::vector<std::string> own_parameters() const = 0;
  virtual std::vector<State> own_state() = 0;
};

}  // namespace facetrain
