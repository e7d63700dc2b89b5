#include "trainer/recipe.h"

#include "data/sampler.h"
#include "data/transform.h"
#include "losses/margin.h"
#include "losses/pair_loss.h"
#include "losses/sharded_classifier.h"
#include "trainer/optimizer.h"
#include "trainer/run_options.h"
#include "trainer/schedule.h"
#include "trainer/streams.h"

namespace facetrain {
namespace {

// The sections that recipes may read beside `recipe:`, by what parses them. `pair_loss` is the
// section `loss` of recipes that compare pairs.
void resolve_section(const Config& root, const std::string& name) {
  Config section = root.section(name == "pair_loss" ? "loss" : name);
  if (name == "model") {
    section.set_default_name("iresnet50");
    Backbones::get().resolve(section);
  } else if (name == "loss") {
    section.set_default_name("arcface");
    Margins::get().resolve(section);
  } else if (name == "pair_loss") {
    section.set_default_name("triplet");
    PairLosses::get().resolve(section);
  } else if (name == "classifier") {
    section.as<ClassifierOptions>();
  } else {
    FT_FAIL("a recipe names the section '{}', which nothing parses", name);
  }
}

void resolve_data(const Config& data) {
  resolve_training_sets(data.section("train"));
  Config sampler = data.section("sampler");
  sampler.set_default_name("shuffle");
  Samplers::get().resolve(sampler);
  resolve_transforms(data.section("transforms"));
  Normalization::parse(data.section("normalize"));
  for (const auto& [name, stream] : data.section("streams").node().map) {
    Config(stream).as<DataOptions>();
    resolve_data(Config(stream));
  }
}

}  // namespace

void resolve_config(Config& root) {
  root.as<RunOptions>();
  Config recipe = root.section("recipe"), optimizer = root.section("optimizer"),
         schedule = root.section("schedule");
  recipe.set_default_name("recognition");
  Recipes::get().resolve(recipe);
  for (const auto& name : Recipes::get().entry(recipe).sections) resolve_section(root, name);
  optimizer.set_default_name("sgd");
  Optimizers::get().resolve(optimizer);
  resolve_rules(optimizer.section("rules"));
  schedule.set_default_name("poly");
  Schedules::get().resolve(schedule);
  resolve_data(root.section("data"));
  resolve_evaluation_sets(root.section("eval").section("sets"));
  root.check_all_used();
}

}  // namespace facetrain
