// facetrain list: every registered name with its options, from the declarations that parse them.
#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "data/sampler.h"
#include "data/source.h"
#include "data/transform.h"
#include "eval/protocol.h"
#include "export/exporter.h"
#include "losses/margin.h"
#include "losses/pair_loss.h"
#include "losses/sharded_classifier.h"
#include "models/backbone.h"
#include "trainer/optimizer.h"
#include "trainer/recipe.h"
#include "trainer/run_options.h"
#include "trainer/schedule.h"

namespace facetrain {
namespace {

void print_fields(const std::vector<FieldInfo>& fields) {
  for (const auto& field : fields)
    fmt::print("      {:<16} {:<12} {}{}\n", field.name,
               field.fallback.empty() ? "-" : field.fallback, field.meaning,
               field.allowed.empty() ? "" : fmt::format(" ({})", field.allowed));
}

bool same(const FieldInfo& a, const FieldInfo& b) {
  return a.name == b.name && a.fallback == b.fallback && a.allowed == b.allowed &&
         a.meaning == b.meaning;
}

bool has(const std::vector<FieldInfo>& fields, const FieldInfo& wanted) {
  return std::ranges::any_of(fields, [&](const FieldInfo& field) { return same(field, wanted); });
}

// The options that every product of a kind has.
template <class Entries>
std::vector<FieldInfo> common_fields(const Entries& entries) {
  std::vector<FieldInfo> common;
  if (entries.size() < 2) return common;
  for (const auto& field : entries.front().fields)
    if (std::ranges::all_of(entries, [&](const auto& entry) { return has(entry.fields, field); }))
      common.push_back(field);
  return common;
}

// What was asked for, and the words that could have been.
struct Wanted {
  std::string only;
  std::vector<std::string> known, kinds;
  bool found = false;
  bool takes(const std::string& word) {
    known.push_back(word);
    found |= only == word;
    return only.empty() || only == word;
  }
};

template <class Products>
void print_registry(const char* title, Wanted& wanted) {
  wanted.kinds.emplace_back(title);
  const bool all = wanted.takes(title);
  std::vector<FieldInfo> common;  // of the whole kind: printed once
  bool shown = false;
  auto entries = Products::get().entries();
  for (auto& entry : entries)
    for (auto& field : entry.fields)
      if (field.name == "protocol") field.fallback = entry.name;  // it is what chooses this one
  for (auto& entry : entries) {
    if (!wanted.takes(entry.name) && !all) continue;
    if (!shown) {
      fmt::print("{}\n", title);
      if (all) common = common_fields(entries);
      if (!common.empty()) fmt::print("  (each of them)\n");
      print_fields(common);
    }
    shown = true;
    fmt::print("  {:<20} {}\n", entry.name, entry.meaning);
    std::erase_if(entry.fields, [&](const FieldInfo& field) { return has(common, field); });
    print_fields(entry.fields);
  }
}

template <class Options>
void print_section(const char* title, Wanted& wanted) {
  wanted.kinds.emplace_back(title);
  if (!wanted.takes(title)) return;
  fmt::print("{}\n", title);
  print_fields(list_fields<Options>());
}

void list(const std::string& word) {
  const std::string only = word == "networks" ? "backbones" : word;
  Wanted wanted{only, {}, {}, only.empty()};
  print_registry<Backbones>("backbones", wanted);
  print_registry<Margins>("margins", wanted);
  print_registry<PairLosses>("pair_losses", wanted);
  print_registry<Recipes>("recipes", wanted);
  print_registry<Protocols>("protocols", wanted);
  print_registry<Sources>("sources", wanted);
  print_registry<Samplers>("samplers", wanted);
  print_registry<Transforms>("transforms", wanted);
  print_registry<Schedules>("schedules", wanted);
  print_registry<Optimizers>("optimizers", wanted);
  print_registry<Exporters>("exporters", wanted);
  print_section<RunOptions>("sections", wanted);
  print_section<DataOptions>("data", wanted);
  print_section<ClassifierOptions>("classifier", wanted);
  print_section<TrainerOptions>("trainer", wanted);
  print_section<CheckpointOptions>("checkpoint", wanted);
  print_section<EvalOptions>("eval", wanted);
  print_section<LogOptions>("log", wanted);
  if (wanted.found) return;
  const std::string guess = config_detail::nearest(only, wanted.known);
  throw CLI::ValidationError(
      "list", fmt::format("there is no '{}'{}; kinds: {}; `facetrain list` alone shows everything",
                          only, guess.empty() ? "" : fmt::format(" (did you mean '{}'?)", guess),
                          fmt::join(wanted.kinds, ", ")));
}

}  // namespace

void add_list_command(CLI::App& app) {
  auto only = std::make_shared<std::string>();
  auto* command = app.add_subcommand(
      "list", "print every margin, backbone, recipe, ... with its options and defaults");
  command->add_option("what", *only, "a kind (margins) or a name (arcface); default: everything");
  command->footer("Example:\n  facetrain list margins\n  facetrain list sgd");
  command->callback([only] { list(*only); });
}

}  // namespace facetrain
