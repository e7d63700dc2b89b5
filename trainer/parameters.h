// The parameters of a recipe with what the trainer must know of each: its name, whether it is
// frozen, whether it is sharded.
#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "comm/sharded.h"
#include "core/torch.h"
#include "trainer/recipe.h"

namespace facetrain {

struct Parameter {
  std::string name;  // full: "backbone.layer1.0.conv1.weight"
  torch::Tensor tensor;
  ShardOwner* owner = nullptr;  // set for sharded parameters
  ShardedParameter shard{};     // local name and rows
  bool own_update = false;      // its module updates it; the optimizer skips it
  int64_t layer = -1;           // of its Backbone (layer_of), -1: it belongs to none
  int64_t layers = 0;           // of that Backbone
};

struct ParameterList {
  std::vector<Parameter> trained;   // in registration order; frozen ones are not in it
  std::vector<std::string> frozen;  // names
  std::vector<ShardOwner*> owners;
  std::map<std::string, ShardedParameter>
      sharded;  // by full name: parameters and buffers, frozen ones too
  std::vector<std::pair<std::string, OwnUpdate*>> own_updates;  // with the module's name

  std::vector<std::pair<std::string, torch::Tensor>> replicated()
      const;  // trained and not sharded: the reducer's
};

// Applies the freeze policies of the modules and of the user (globs on full names): frozen
// parameters stop requiring gradients. A user's pattern that matches nothing is an error.
ParameterList list_parameters(Recipe& recipe, const std::vector<std::string>& freeze);

// Puts the recipe into training mode, but for modules that are frozen as a whole.
void set_training_mode(Recipe& recipe, const std::vector<std::string>& freeze);

// "module.name", or "name" for the root module.
std::string join_name(const std::string& module, const std::string& name);

// Elements, of all ranks for a sharded parameter.
int64_t count_numbers(const Parameter& parameter);

// Shell-style match: `*` also matches dots.
bool matches(const std::string& pattern, const std::string& name);

// A rule on parameters as the configuration writes it: a glob on the name, "rank<2" on the tensor's
// rank, or "layer<4" on its network's layers (what belongs to no network has none).
bool rule_matches(const std::string& rule, const Parameter& parameter);

}  // namespace facetrain
