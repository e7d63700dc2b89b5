#include "cli/usage.h"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "losses/margin.h"
#include "losses/sharded_classifier.h"
#include "models/backbone.h"
#include "trainer/optimizer.h"
#include "trainer/run_options.h"
#include "trainer/schedule.h"

namespace facetrain {
namespace {

using Fields = std::vector<FieldInfo>;

bool has_field(const Fields& fields, const std::string& name) {
  return std::ranges::any_of(fields, [&](const FieldInfo& field) { return field.name == name; });
}

template <class Products>
Fields fields_of_all() {
  Fields all;
  for (const auto& entry : Products::get().entries())
    all.insert(all.end(), entry.fields.begin(), entry.fields.end());
  return all;
}

std::string did_you_mean(const std::string& word, const std::vector<std::string>& known) {
  const std::string guess = config_detail::nearest(word, known);
  return guess.empty() ? "" : fmt::format(" (did you mean '{}'?)", guess);
}

std::vector<std::string> subcommands_of(const CLI::App& app) {
  std::vector<std::string> names;
  for (const auto* sub : app.get_subcommands([](const CLI::App*) { return true; }))
    names.push_back(sub->get_name());
  return names;
}

// "--epochs=3" and "--epochs 3" are an option and its value.
std::string option_problem(const CLI::App& command, const std::vector<std::string>& words,
                           size_t at) {
  const size_t equals = words[at].find('=');
  const std::string option = words[at].substr(0, equals);
  std::string value = "VALUE";
  if (equals != std::string::npos)
    value = words[at].substr(equals + 1);
  else if (at + 1 < words.size() && !words[at + 1].starts_with("-"))
    value = words[at + 1];
  const std::string setting = setting_named(option.substr(2));
  const std::string problem = fmt::format("{}: no option {}", command.get_name(), option);
  if (!setting.empty() && command.get_name() == "train")
    return fmt::format("{}; settings are written {}={}", problem, setting, value);
  std::vector<std::string> known;
  for (const auto* other : command.get_options())
    for (const auto& name : other->get_lnames()) known.push_back("--" + name);
  return problem + did_you_mean(option, known);
}

}  // namespace

std::string setting_named(const std::string& option) {
  std::string name = option;
  std::ranges::replace(name, '-', '_');
  if (name == "batch") name = "batch_size";
  const std::vector<std::pair<std::string, Fields>> sections{
      {"", list_fields<RunOptions>()},
      {"trainer.", list_fields<TrainerOptions>()},
      {"data.", list_fields<DataOptions>()},
      {"optimizer.", fields_of_all<Optimizers>()},
      {"schedule.", fields_of_all<Schedules>()},
      {"model.", fields_of_all<Backbones>()},
      {"loss.", fields_of_all<Margins>()},
      {"classifier.", list_fields<ClassifierOptions>()},
      {"checkpoint.", list_fields<CheckpointOptions>()},
      {"eval.", list_fields<EvalOptions>()},
      {"log.", list_fields<LogOptions>()}};
  for (const auto& [section, fields] : sections)
    if (has_field(fields, name)) return section + name;
  return "";
}

std::string usage_problem(const CLI::App& app, const std::vector<std::string>& words) {
  const CLI::App* command = &app;
  for (size_t at = 0; at < words.size(); ++at) {
    const std::string& word = words[at];
    const auto known = subcommands_of(*command);
    if (!known.empty() && !word.starts_with("-")) {
      if (std::ranges::find(known, word) == known.end())
        return fmt::format("{}there is no subcommand '{}'{}; known: {}",
                           command == &app ? "" : command->get_name() + ": ", word,
                           did_you_mean(word, known), fmt::join(known, ", "));
      command = command->get_subcommand(word);
    } else if (word.starts_with("--") && word.size() > 2 &&
               command->get_option_no_throw(word.substr(0, word.find('='))) == nullptr) {
      return option_problem(*command, words, at);
    }
  }
  return "";
}

}  // namespace facetrain
