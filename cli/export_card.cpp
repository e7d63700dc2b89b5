#include "cli/export_card.h"

#include <fstream>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>

#include "core/check.h"
#include "eval/pairs.h"
#include "eval/protocol.h"
#include "trainer/checkpoint.h"

namespace facetrain {
namespace fs = std::filesystem;
namespace {

struct PairCounts {
  int64_t same = 0, different = 0;
};

// "lfw.tar@far=0.1" -> "lfw" and "tar@far=0.1", which has a dot of its own.
std::pair<std::string, std::string> split_name(const std::string& name) {
  const size_t dot = name.rfind('.', name.find('@'));
  return {name.substr(0, dot), dot == std::string::npos ? "" : name.substr(dot + 1)};
}

// Of the sets that are evaluated on pairs and whose lists can still be read.
std::map<std::string, PairCounts> count_pairs(const Config& config) {
  std::map<std::string, PairCounts> counts;
  const auto eval = config.node().find("eval");
  const auto sets = eval ? eval->find("sets") : nullptr;
  if (!sets) return counts;
  for (const auto& set : sets->list) {
    const auto name = set->find("name"), pairs = set->find("pairs");
    if (!name || !pairs || !fs::is_regular_file(pairs->scalar)) continue;
    PairList list;
    try {
      list = is_csv_pairs(pairs->scalar)
                 ? read_csv_pairs(pairs->scalar, std::numeric_limits<int64_t>::max())
                 : read_lfw_pairs(pairs->scalar).pairs;
    } catch (const Error&) {  // another list by now: an interval less
      continue;
    }
    PairCounts& count = counts[name->scalar];
    for (const Pair& pair : list) ++(pair.same ? count.same : count.different);
  }
  return counts;
}

// The last evaluation up to a step.
struct LastEvaluation {
  int64_t step = -1;
  nlohmann::json figures;
};
LastEvaluation last_evaluation(const fs::path& metrics, int64_t upto) {
  LastEvaluation last;
  std::ifstream in(metrics);
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!json.is_object() || !json.contains("eval") || !json.contains("step")) continue;
    if (!json["step"].is_number_integer() || !json["eval"].is_object()) continue;
    const auto step = json["step"].get<int64_t>();
    if (step <= upto && step >= last.step) last = {step, json["eval"]};
  }
  return last;
}

CardFigure make_figure(const std::string& name, double value,
                       const std::map<std::string, PairCounts>& counts) {
  const auto [set, figure_name] = split_name(name);
  CardFigure figure{set, figure_name, value, {}, "number of trials not recorded"};
  const auto found = counts.find(figure.set);
  if (found == counts.end()) return figure;
  const auto [same, different] = found->second;
  const bool of_same = figure.name.starts_with("tar@") || figure.name == "val";
  if (figure.name == "accuracy" && same + different > 0) {
    figure.interval = wilson_interval(value, same + different);
    figure.basis = fmt::format("{} pairs", same + different);
  } else if (of_same && same > 0) {
    figure.interval = wilson_interval(value, same);
    figure.basis = fmt::format("{} same pairs", same);
  } else if (figure.name == "auc" && same > 0 && different > 0) {
    figure.interval = auc_interval(value, same, different);
    figure.basis = fmt::format("{} same, {} different pairs", same, different);
  } else {
    figure.basis = fmt::format("{} same, {} different pairs; no interval", same, different);
  }
  return figure;
}

// What the protocols log beside a share: how many trials it is of.
const std::string kPairsOf = "#pairs@", kAccuracyOf = "accuracy@", kKnown = "#known";

// The figures of one evaluation; those that count trials become the intervals of the others.
std::vector<CardFigure> make_figures(const nlohmann::json& figures,
                                     const std::map<std::string, PairCounts>& counts) {
  const auto trials = [&](const std::string& name) -> int64_t {
    const auto found = figures.find(name);
    return found == figures.end() || !found->is_number() ? 0 : found->get<int64_t>();
  };
  std::vector<CardFigure> made;
  for (const auto& [name, value] : figures.items()) {
    const auto [set, figure_name] = split_name(name);
    if (!value.is_number() || counts_trials(name)) continue;
    CardFigure figure = make_figure(name, value.get<double>(), counts);
    if (figure_name.starts_with(kAccuracyOf)) {
      figure.group = figure_name.substr(kAccuracyOf.size());
      figure.name = "accuracy";
      if (const int64_t pairs = trials(set + "." + kPairsOf + figure.group); pairs > 0) {
        figure.interval = wilson_interval(figure.value, pairs);
        figure.basis = fmt::format("{} pairs", pairs);
      }
    } else if (const int64_t known = trials(set + "." + kKnown); known > 0) {
      figure.interval = wilson_interval(figure.value, known);
      figure.basis = fmt::format("{} known probes", known);
    }
    made.push_back(std::move(figure));
  }
  return made;
}

}  // namespace

void describe_training(const fs::path& what, ModelCard& card) {
  std::optional<fs::path> checkpoint;
  if (is_checkpoint(what))
    checkpoint = what;
  else if (fs::is_directory(what))
    checkpoint = newest_checkpoint(what);
  if (!checkpoint) {
    card.evaluated = "the file was exported from weights, not from a run";
    return;
  }
  const CheckpointMeta meta = read_meta(*checkpoint);
  const Config config = Config::parse(meta.config, (*checkpoint / "meta.yaml").string());
  card.training_config = meta.config;
  if (const auto data = config.node().find("data"); data && data->find("train"))
    card.training_data = config_detail::to_text(*data->find("train"));
  const fs::path metrics = fs::absolute(*checkpoint).parent_path() / "metrics.jsonl";
  const LastEvaluation last = last_evaluation(metrics, meta.state.step);
  if (last.step < 0) {
    card.evaluated = "nothing was evaluated during training; fill in what `facetrain eval` prints";
    return;
  }
  card.evaluated =
      last.step == meta.state.step
          ? fmt::format("during training, after step {}, which is that of the file", last.step)
          : fmt::format("during training, after step {}; the file is of step {}", last.step,
                        meta.state.step);
  card.figures = make_figures(last.figures, count_pairs(config));
}

}  // namespace facetrain
