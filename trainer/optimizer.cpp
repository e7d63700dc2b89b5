#include "trainer/optimizer.h"

#include <cmath>
#include <ranges>

namespace facetrain {
namespace {

struct GroupRule {
  std::string match;
  double lr_scale = -1;  // -1: not set
  Scheduled weight_decay = -1;
  Duration from{-1};
  void fields(auto& f) {
    f("match", match, "a glob on the parameter's name, rank<N, or layer<N");
    f("lr_scale", lr_scale, range(-1, 1e6), "multiplies the learning rate");
    f("weight_decay", weight_decay, range(-1, 10), "replaces the weight decay");
    f("from", from, at_least(-1), "the tensor stays as it is before this step (or 'N epochs')");
  }
};

std::vector<GroupRule> parse_rules(const CommonOptimizerOptions& options) {
  std::vector<GroupRule> rules;
  for (const auto& pattern : options.no_decay) rules.push_back({pattern, -1, 0, {-1}});
  for (const auto& item : options.rules.node().list) rules.push_back(Config(item).as<GroupRule>());
  return rules;
}

std::string text_of(const Scheduled& value) {
  return config_detail::to_text(*config_detail::write(value));
}

bool same_settings(const ParamGroup& a, const ParamGroup& b) {
  return a.lr_scale == b.lr_scale && text_of(a.weight_decay) == text_of(b.weight_decay) &&
         a.from.text() == b.from.text() && a.adapt == b.adapt;
}

// d^(n - i) for layer i of 0 ... n (MAE's fine-tuning, after Clark et al. 2020, arXiv:2003.10555).
// Heads, which belong to no network, keep lr like layer n.
double layer_factor(const Parameter& parameter, double decay) {
  if (parameter.layer < 0) return 1;
  return std::pow(decay, static_cast<double>(parameter.layers - 1 - parameter.layer));
}

void check_layers(const std::vector<Parameter>& parameters, double decay) {
  FT_CHECK(
      decay == 1 || std::ranges::any_of(parameters, [](const auto& p) { return p.layers > 1; }),
      "optimizer.layer_decay is {}, but no trained parameter belongs to a network that tells its "
      "layers apart (ViT, Swin, ResNet, ConvNeXt do): take it out, or look at trainer.freeze",
      decay);
}

bool samples_rows(const Parameter& parameter) {
  return parameter.owner && parameter.owner->touched_rows(parameter.shard.name).defined();
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
                                    const CommonOptimizerOptions& options,
                                    const std::vector<std::string>& unadapted) {
  const auto rules = parse_rules(options);
  check_layers(parameters, options.layer_decay);
  std::vector<bool> used(rules.size(), false);
  std::vector<ParamGroup> groups;
  for (const auto& parameter : parameters) {
    if (parameter.own_update) continue;
    ParamGroup wanted{1, options.weight_decay, {}, true, {}};
    for (size_t i = 0; i < rules.size(); ++i) {
      if (!rule_matches(rules[i].match, parameter)) continue;
      used[i] = true;
      if (rules[i].lr_scale >= 0) wanted.lr_scale = rules[i].lr_scale;
      if (rules[i].weight_decay.value.front() >= 0) wanted.weight_decay = rules[i].weight_decay;
      if (rules[i].from.value >= 0) wanted.from = rules[i].from;
    }
    wanted.lr_scale *= layer_factor(parameter, options.layer_decay);
    wanted.adapt = std::ranges::none_of(
        unadapted, [&](const auto& rule) { return rule_matches(rule, parameter); });
    if (!wanted.adapt) wanted.weight_decay = 0;
    auto group =
        std::ranges::find_if(groups, [&](const auto& g) { return same_settings(g, wanted); });
    if (group == groups.end()) group = groups.insert(group, wanted);
    group->parameters.push_back(parameter);
  }
  for (size_t i = 0; i < rules.size(); ++i)
    FT_CHECK(used[i],
             "optimizer: the rule '{}' (no_decay or rules) matches no trained parameter; names "
             "look like '{}'",
             rules[i].match, parameters.empty() ? "" : parameters.front().name);
  return groups;
}

std::string describe(const ParamGroup& group) {
  int64_t numbers = 0;
  for (const auto& parameter : group.parameters) numbers += count_numbers(parameter);
  const size_t count = group.parameters.size();
  return fmt::format(
      "{} tensor{}, {} numbers: lr x {:.6g}, weight decay {}{}{}", count, count == 1 ? "" : "s",
      numbers, group.lr_scale, text_of(group.weight_decay), group.adapt ? "" : ", no trust ratio",
      group.from.value > 0
          ? fmt::format(", from {}{}", group.from.text(), group.from.epochs ? "" : " steps")
          : "");
}

torch::Tensor square_sums(const std::vector<torch::Tensor>& tensors) {
  auto sums = torch::zeros({std::ssize(tensors)}, torch::kDouble);
  std::vector<torch::Tensor> present;
  std::vector<int64_t> places;
  for (size_t i = 0; i < tensors.size(); ++i)
    if (tensors[i].defined() && tensors[i].numel() > 0) {
      present.push_back(tensors[i]);
      places.push_back(static_cast<int64_t>(i));
    }
  if (present.empty()) return sums;
  const auto norms = torch::stack(at::_foreach_norm(present, 2, at::kDouble)).to(torch::kCPU);
  return sums.index_copy_(0, torch::tensor(places), norms.to(torch::kDouble).square());
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

std::vector<std::pair<size_t, Optimizer::Item>> Optimizer::items(const ParamGroup& group,
                                                                 const UpdateStep& at) const {
  const double decay = group.weight_decay(at.progress.step, at.progress.steps_per_epoch);
  std::vector<std::pair<size_t, Item>> items;
  for (size_t i = 0; i < group.parameters.size(); ++i) {
    const Parameter& parameter = group.parameters[i];
    if (samples_rows(parameter)) continue;
    const auto& gradient = parameter.tensor.grad();
    if (!parameter.owner && (!gradient.defined() || !at.reached(parameter.tensor))) continue;
    items.push_back({i, {&parameter, gradient, decay, group.adapt}});
  }
  return items;
}

void Optimizer::step(const UpdateStep& at) {
  const torch::NoGradGuard no_grad;
  std::vector<std::vector<std::pair<size_t, Item>>> live(groups_.size());
  std::vector<Item> all;
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (at.progress.step < groups_[g].from.steps(at.progress.steps_per_epoch)) continue;
    live[g] = items(groups_[g], at);
    for (const auto& [i, item] : live[g]) all.push_back(item);
  }
  prepare(all, at.comm);
  for (size_t g = 0; g < groups_.size(); ++g) {
    const ParamGroup& group = groups_[g];
    const int64_t start = group.from.steps(at.progress.steps_per_epoch);
    if (at.progress.step < start) continue;
    // A late group's bias correction counts its own updates; those skipped since its start count
    // too, for no checkpoint knows how many they were.
    UpdateStep of_group = at;
    of_group.lr = at.lr * group.lr_scale;
    if (start > 0) of_group.number = std::min(at.number, at.progress.step - start + 1);
    update_group(g, live[g], of_group);
  }
}

void Optimizer::update_group(size_t g, const std::vector<std::pair<size_t, Item>>& items,
                             const UpdateStep& at) {
  const ParamGroup& group = groups_[g];
  const double decay = group.weight_decay(at.progress.step, at.progress.steps_per_epoch);
  for (size_t i = 0; i < group.parameters.size(); ++i)
    if (samples_rows(group.parameters[i]))
      update_rows(group.parameters[i], states_[g][i], at.lr, decay, at.number);
  std::vector<torch::Tensor> tensors, gradients;
  std::vector<std::vector<torch::Tensor>> states(state_names_.size());
  for (const auto& [i, item] : items) {
    if (!item.gradient.defined()) continue;
    tensors.push_back(item.parameter->tensor);
    gradients.push_back(item.gradient);
    for (size_t s = 0; s < states.size(); ++s) states[s].push_back(states_[g][i][s]);
  }
  if (!tensors.empty()) update(tensors, gradients, states, at.lr, decay, at.number);
}

void Optimizer::update_rows(const Parameter& parameter, std::vector<torch::Tensor>& states,
                            double lr, double weight_decay, int64_t number) {
  FT_CHECK(
      updates_rows(),
      "optimizer: '{}' has a gradient for a sample of its rows, but this optimizer adapts whole "
      "tensors: set classifier.sample_rate=1, or take sgd or adamw",
      parameter.name);
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
