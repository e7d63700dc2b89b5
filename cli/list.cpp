// facetrain list: every registered name with its options, from the declarations that parse them.
#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "data/sampler.h"
#include "data/source.h"
#include "data/transform.h"
#include "export/exporter.h"
#include "losses/margin.h"
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

template <class Products>
void print_registry(const char* title, const std::string& only) {
  const auto& entries = Products::get().entries();
  bool shown = false;
  for (const auto& entry : entries) {
    if (!only.empty() && only != entry.name && only != title) continue;
    if (!shown) fmt::print("{}\n", title);
    shown = true;
    fmt::print("  {:<20} {}\n", entry.name, entry.meaning);
    print_fields(entry.fields);
  }
}

template <class Options>
void print_section(const char* title, const std::string& only) {
  if (!only.empty() && only != title) return;
  fmt::print("{}\n", title);
  print_fields(list_fields<Options>());
}

void list(const std::string& only) {
  print_registry<Backbones>("backbones", only);
  print_registry<Margins>("margins", only);
  print_registry<Recipes>("recipes", only);
  print_registry<Sources>("sources", only);
  print_registry<Samplers>("samplers", only);
  print_registry<Transforms>("transforms", only);
  print_registry<Schedules>("schedules", only);
  print_registry<Optimizers>("optimizers", only);
  print_registry<Exporters>("exporters", only);
  print_section<RunOptions>("sections", only);
  print_section<DataOptions>("data", only);
  print_section<ClassifierOptions>("classifier", only);
  print_section<TrainerOptions>("trainer", only);
  print_section<CheckpointOptions>("checkpoint", only);
  print_section<EvalOptions>("eval", only);
  print_section<LogOptions>("log", only);
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
