#include "trainer/optimizer.h"

namespace facetrain {
namespace {

struct GroupRule {
  std::string match;
  double lr_scale = -1, weight_decay = -1;  // -1: not set
  void fields(auto& f) {
    f("match", match, "a glob on the parameter's name, or rank<N");
    f("lr_scale", lr_scale, range(-1, 1e6), "multiplies the learning rate");
    f("weight_decay", weight_decay, range(-1, 10), "replaces the weight decay");
  }
};

std::vector<GroupRule> parse_rules(const CommonOptimizerOptions& options) {
  std::vector<GroupRule> rules;
  for (const auto& pattern : options.no_decay) rules.push_back({pattern, -1, 0});
  for (const auto& item : options.rules.node().list) rules.push_back(Config(item).as<GroupRule>());
  return rules;
}

// Rows of a chunk when the whole shard is updated with a gradient for some rows only.
constexpr int64_t kChunkRows = 65536;

}  // namespace

void resolve_rules(const Config& rules) {
  const auto kind = rules.node().kind;
  FT_CHECK(kind == ConfigNode::Kind::kList || kind == ConfigNode::Kind::kNull,
           "{}: wanted a list: [{{match: RULE, lr_scale: ..}}]", rules.place());
  for (const auto& item : rules.node().list) Config(item).as<GroupRule>();
}

std::vector<ParamGroup> make_groups(const std::vector<Parameter>& parameters,
                                    const CommonOptimizerOptions& options) {
  const auto rules = parse_rules(options);
  std::vector<bool> used(rules.size(), false);
  std::vector<ParamGroup> groups;
  for (const auto& parameter : parameters) {
    if (parameter.own_update) continue;
    double lr_scale = 1, weight_decay = options.weight_decay;
    for (size_t i = 0; i < rules.size(); ++i) {
      if (!rule_matches(rules[i].match, parameter)) continue;
      used[i] = true;
      if (rules[i].lr_scale >= 0) lr_scale = rules[i].lr_scale;
      if (rules[i].weight_decay >= 0) weight_decay = rules[i].weight_decay;
    }
    auto group = std::find_if(groups.begin(), groups.end(), [&](const ParamGroup& g) {
      return g.lr_scale == lr_scale && g.weight_decay == weight_decay;
    });
    if (group == groups.end()) group = groups.insert(group, {lr_scale, weight_decay, {}});
    group->parameters.push_back(parameter);
  }
  for (size_t i = 0; i < rules.size(); ++i)
    FT_CHECK(used[i],
             "optimizer: the rule '{}' (no_decay or rules) matches no trained parameter; names "
             "look like '{}'",
             rules[i].match, parameters.empty() ? "" : parameters.front().name);
  return groups;
}

Optimizer::Optimizer(const CommonOptimizerOptions& options, std::vector<std::string> state_names,
                     std::vector<ParamGroup> groups)
    : options_(options), state_names_(std::move(state_names)), groups_(std::move(groups)) {
  for (const auto& group : groups_) {
    auto& group_states = states_.emplace_back();
    for (const auto& parameter : group.parameters) {
      auto& states = group_states.emplace_back();
      for (size_t s = 0; s < state_names_.size(); ++s)
        states.push_back(torch::zeros_like(parameter.tensor, torch::MemoryFormat::Preserve)
                             .set_requires_grad(false));
    }
  }
}

void Optimizer::step(const UpdateStep& at) {
  const torch::NoGradGuard no_grad;
  for (size_t g = 0; g < groups_.size(); ++g) {
    const ParamGroup& group = groups_[g];
    const double lr = at.lr * group.lr_scale;
    std::vector<torch::Tensor> tensors, gradients;
    std::vector<std::vector<torch::Tensor>> states(state_names_.size());
    for (size_t i = 0; i < group.parameters.size(); ++i) {
      const Parameter& parameter = group.parameters[i];
      if (parameter.owner && parameter.owner->touched_rows(parameter.shard.name).defined()) {
        update_rows(parameter, states_[g][i], lr, group.weight_decay, at.number);
        continue;
      }
      if (!parameter.tensor.grad().defined() || (!parameter.owner && !at.reached(parameter.tensor)))
        continue;
      tensors.push_back(parameter.tensor);
      gradients.push_back(parameter.tensor.grad());
      for (size_t s = 0; s < states.size(); ++s) states[s].push_back(states_[g][i][s]);
    }
    if (!tensors.empty()) update(tensors, gradients, states, lr, group.weight_decay, at.number);
  }
}

void Optimizer::update_rows(const Parameter& parameter, std::vector<torch::Tensor>& states,
                            double lr, double weight_decay, int64_t number) {
  const auto rows = parameter.owner->touched_rows(parameter.shard.name);
  const auto gradient = parameter.owner->row_gradient(parameter.shard.name);
  const auto apply = [&](const torch::Tensor& tensor, const torch::Tensor& grad,
                         std::vector<torch::Tensor> state) {
    std::vector<std::vector<torch::Tensor>> lists;
    for (auto& s : state) lists.push_back({s});
    update({tensor}, {grad}, lists, lr, weight_decay, number);
  };
  if (!parameter.owner->update_untouched_rows(parameter.shard.name)) {
    auto tensor = parameter.tensor.index_select(0, rows);
    std::vector<torch::Tensor> selected;
    for (auto& state : states) selected.push_back(state.index_select(0, rows));
    apply(tensor, gradient, selected);
    parameter.tensor.detach().index_copy_(0, rows, tensor);
    for (size_t s = 0; s < states.size(); ++s) states[s].index_copy_(0, rows, selected[s]);
    return;
  }
  // The whole shard, a chunk at a time: a dense gradient of a large shard would cost as much memory
  // as the shard.
  const int64_t total = parameter.tensor.size(0);
  for (int64_t begin = 0; begin < total; begin += kChunkRows) {
    const int64_t length = std::min(kChunkRows, total - begin);
    const auto inside = (rows >= begin).logical_and(rows < begin + length).nonzero().squeeze(1);
    auto chunk = torch::zeros_like(parameter.tensor.narrow(0, begin, length));
    chunk.index_copy_(0, rows.index_select(0, inside) - begin, gradient.index_select(0, inside));
    std::vector<torch::Tensor> views;
    for (auto& state : states) views.push_back(state.narrow(0, begin, length));
    apply(parameter.tensor.detach().narrow(0, begin, length), chunk, views);
  }
}

std::vector<Optimizer::State> Optimizer::state() {
  std::vector<State> all;
  for (size_t g = 0; g < groups_.size(); ++g)
    for (size_t i = 0; i < groups_[g].parameters.size(); ++i)
      for (size_t s = 0; s < state_names_.size(); ++s) {
        const Parameter& parameter = groups_[g].parameters[i];
        all.push_back({parameter.name + "." + state_names_[s], states_[g][i][s], &parameter});
      }
  return all;
}

}  // namespace facetrain
