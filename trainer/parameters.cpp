#include "trainer/parameters.h"

#include <fnmatch.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "core/freeze.h"

namespace facetrain {
namespace {

// The full patterns of all modules that declare a freeze policy.
std::vector<std::string> declared_patterns(const Recipe& recipe) {
  std::vector<std::string> patterns;
  for (const auto& item : recipe.named_modules("", true))
    if (const auto* policy = dynamic_cast<const FreezePolicy*>(item.value().get()))
      for (const auto& pattern : policy->frozen())
        patterns.push_back(join_name(item.key(), pattern));
  return patterns;
}

// N of a rule "rank<N" or "layer<N"; nothing for other rules.
std::optional<int64_t> bound_of(const std::string& rule, const std::string& kind) {
  if (!rule.starts_with(kind)) return std::nullopt;
  int64_t bound = 0;
  const char* end = rule.data() + rule.size();
  const auto [stop, error] = std::from_chars(rule.data() + kind.size(), end, bound);
  FT_CHECK(error == std::errc() && stop == end, "a rule of this kind reads {}2, found '{}'", kind,
           rule);
  return bound;
}

using Networks = std::vector<std::pair<std::string, const Backbone*>>;

// Outer ones before those inside them.
Networks networks_of(const Recipe& recipe) {
  Networks networks;
  for (const auto& item : recipe.named_modules("", false))
    if (const auto* network = dynamic_cast<const Backbone*>(item.value().get()))
      networks.emplace_back(item.key() + ".", network);
  return networks;
}

void set_layer(const Networks& networks, Parameter& parameter) {
  for (const auto& [prefix, network] : networks) {
    if (!parameter.name.starts_with(prefix)) continue;
    parameter.layer = network->layer_of(parameter.name.substr(prefix.size()));
    parameter.layers = network->layers();
    FT_CHECK(parameter.layer >= 0 && parameter.layer < parameter.layers,
             "parameter '{}': its network of {} layers says that it belongs to layer {}",
             parameter.name, parameter.layers, parameter.layer);
    return;
  }
}

}  // namespace

std::string join_name(const std::string& module, const std::string& name) {
  return module.empty() ? name : module + "." + name;
}

int64_t count_numbers(const Parameter& parameter) {
  const auto& tensor = parameter.tensor;
  if (!parameter.owner) return tensor.numel();
  return parameter.shard.total * (tensor.numel() / std::max<int64_t>(tensor.size(0), 1));
}

bool matches(const std::string& pattern, const std::string& name) {
  return fnmatch(pattern.c_str(), name.c_str(), 0) == 0;
}

bool rule_matches(const std::string& rule, const Parameter& parameter) {
  if (const auto bound = bound_of(rule, "rank<")) return parameter.tensor.dim() < *bound;
  if (const auto bound = bound_of(rule, "layer<"))
    return parameter.layer >= 0 && parameter.layer < *bound;
  return matches(rule, parameter.name);
}

ParameterList list_parameters(Recipe& recipe, const std::vector<std::string>& freeze) {
  ParameterList list;
  auto patterns = declared_patterns(recipe);
  patterns.insert(patterns.end(), freeze.begin(), freeze.end());

  std::map<std::string, ShardOwner*> owner_of;
  std::vector<std::string> own;
  for (const auto& item : recipe.named_modules("", true)) {
    if (auto* owner = dynamic_cast<ShardOwner*>(item.value().get())) {
      list.owners.push_back(owner);
      for (const auto& shard : owner->sharded()) {
        const std::string name = join_name(item.key(), shard.name);
        owner_of[name] = owner;
        list.sharded[name] = shard;
      }
    }
    if (auto* update = dynamic_cast<OwnUpdate*>(item.value().get())) {
      list.own_updates.emplace_back(item.key(), update);
      for (const auto& name : update->own_parameters()) own.push_back(join_name(item.key(), name));
    }
  }

  const Networks networks = networks_of(recipe);
  std::vector<bool> used(patterns.size(), false);
  for (auto& item : recipe.named_parameters()) {
    bool frozen = false;
    for (size_t i = 0; i < patterns.size(); ++i)
      if (matches(patterns[i], item.key())) used[i] = frozen = true;
    if (frozen) {
      item.value().set_requires_grad(false);
      list.frozen.push_back(item.key());
      continue;
    }
    FT_CHECK(item.value().requires_grad(),
             "parameter '{}' requires no gradient but no freeze policy says so: declare it in its "
             "module's "
             "frozen(), or name it in trainer.freeze",
             item.key());
    Parameter parameter{item.key(), item.value()};
    if (const auto found = owner_of.find(item.key()); found != owner_of.end()) {
      parameter.owner = found->second;
      parameter.shard = list.sharded.at(item.key());
    }
    set_layer(networks, parameter);
    parameter.own_update = std::find(own.begin(), own.end(), item.key()) != own.end();
    list.trained.push_back(std::move(parameter));
  }
  for (size_t i = patterns.size() - freeze.size(); i < patterns.size(); ++i)
    FT_CHECK(used[i], "trainer.freeze: no parameter matches '{}'; names look like '{}'",
             patterns[i], recipe.named_parameters().begin()->key());
  return list;
}

std::vector<std::pair<std::string, torch::Tensor>> ParameterList::replicated() const {
  std::vector<std::pair<std::string, torch::Tensor>> result;
  for (const auto& parameter : trained)
    if (!parameter.owner) result.emplace_back(parameter.name, parameter.tensor);
  return result;
}

void set_training_mode(Recipe& recipe, const std::vector<std::string>& freeze) {
  recipe.train();
  auto patterns = declared_patterns(recipe);
  patterns.insert(patterns.end(), freeze.begin(), freeze.end());
  for (const auto& item : recipe.named_modules("", false))
    for (const auto& pattern : patterns)
      // A pattern that ends in ".*" and covers everything below this module freezes the module as a
      // whole.
      if (pattern.ends_with("*") && matches(pattern, item.key() + ".x")) item.value()->eval();
}

}  // namespace facetrain
