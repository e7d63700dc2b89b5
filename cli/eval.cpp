// facetrain eval: a protocol over a network, or over embeddings that somebody has computed.
#include <CLI/CLI.hpp>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/model_arguments.h"
#include "comm/world.h"
#include "core/durable_file.h"
#include "core/log.h"
#include "eval/baselines.h"
#include "eval/embeddings.h"
#include "eval/protocol.h"
#include "trainer/model_loader.h"

namespace facetrain {
namespace {

struct EvalArguments {
  ModelArguments model;
  std::string protocol = "pairs", images, json, device = "cpu";
  bool flip = true;
  int64_t batch = 64;
  std::map<std::string, std::string> options;  // of protocols, as given, by key
};

// "probe_labels" -> "--probe-labels".
std::string option_name(std::string key) {
  std::replace(key.begin(), key.end(), '_', '-');
  return "--" + key;
}

bool is_list(const FieldInfo& field) { return field.fallback.starts_with("["); }

// The options that protocols have of their own, by key: each becomes an option of the command.
std::map<std::string, FieldInfo> own_options() {
  std::vector<std::string> common;
  for (const auto& field : list_fields<ProtocolOptions>()) common.push_back(field.name);
  std::map<std::string, FieldInfo> own;
  for (const auto& entry : Protocols::get().entries())
    for (const auto& field : entry.fields) {
      if (std::find(common.begin(), common.end(), field.name) != common.end()) continue;
      FieldInfo& known = own.try_emplace(field.name, field).first->second;
      known.meaning += known.meaning.ends_with(")") ? "" : fmt::format(" ({})", entry.name);
    }
  return own;
}

// What `eval.sets` of a configuration would have.
Config section_of(const EvalArguments& arguments) {
  Config section;
  section.set("protocol", arguments.protocol);
  section.set("flip", arguments.flip ? "true" : "false");
  if (!arguments.images.empty()) section.set("path", arguments.images);
  const auto known = own_options();
  for (const auto& [key, value] : arguments.options) {
    if (is_list(known.at(key)))
      section.override_with(std::vector{key + "=[" + value + "]"});  // "1,5,10"
    else
      section.set(key, value);
  }
  return section;
}

// The features that need no training, by the word that stands for MODEL; nothing for another word.
EmbedFunction baseline(const std::string& what) {
  if (what == "baseline:pixels") return pixel_features;
  if (what == "baseline:histogram") return histogram_features;
  return {};
}

// **Collective.**
Evaluation evaluate_model(const EvalArguments& arguments, const Config& section, World& world,
                          std::string& described) {
  const LoadedModel model =
      load_model(arguments.model.what, arguments.model.overrides, world.device());
  described = model.describe;
  log_info("{}", model.describe);
  return run_evaluation(open_evaluation_set(section, model.images),
                        embed_function(model, world.device()), arguments.batch, world.comm());
}

// Refuses what a file of embeddings, or a baseline, has no use for.
void check_used(const CLI::App& command, const EvalArguments& arguments,
                const std::vector<std::string>& unused) {
  std::vector<std::string> given = arguments.model.overrides;
  for (const auto& option : unused)
    if (command.count(option) > 0) given.push_back(option);
  if (!given.empty())
    throw CLI::ValidationError("eval", fmt::format("{} runs no network, so {} would do nothing: "
                                                   "leave it out",
                                                   arguments.model.what, fmt::join(given, ", ")));
}

// Keeps the options that were given, and refuses those of another protocol.
void take_options(const CLI::App& command, EvalArguments& arguments) {
  std::vector<std::string> taken;
  for (const auto& entry : Protocols::get().entries())
    if (entry.name == arguments.protocol)
      for (const auto& field : entry.fields) taken.push_back(field.name);
  for (auto option = arguments.options.begin(); option != arguments.options.end();) {
    const bool given = command.count(option_name(option->first)) > 0;
    const bool known = std::find(taken.begin(), taken.end(), option->first) != taken.end();
    if (given && !known)
      throw CLI::ValidationError(
          "eval", fmt::format("the protocol '{}' has no {}: leave it out, or choose another "
                              "--protocol (`facetrain list protocols`)",
                              arguments.protocol, option_name(option->first)));
    option = given ? std::next(option) : arguments.options.erase(option);
  }
}

// Every set that is named with embeddings must be embeddings, and images with a network.
void check_sets(const EvalArguments& arguments, bool file) {
  const auto given = [&](const char* key) { return arguments.options.count(key) > 0; };
  if (arguments.protocol == "pairs" && !given("pairs"))
    throw CLI::ValidationError("eval", "wanted --pairs FILE");
  if (file && (!arguments.images.empty() || given("gallery")))
    throw CLI::ValidationError("eval", fmt::format("an embeddings file takes no {}: it is the set",
                                                   given("gallery") ? "--gallery" : "--images"));
  if (!file && arguments.images.empty() && !given("gallery"))
    throw CLI::ValidationError("eval", "a network wants --images DIR|SHARDS");
}

void write_json(const EvalArguments& arguments, const Evaluation& result,
                const std::string& described, bool file, bool network) {
  nlohmann::json json = *result.json;
  json["model"] = described;
  json["figures"] = result.figures;
  json["text"] = result.text;
  const auto gallery = arguments.options.find("gallery");
  if (!file)
    json["images"] = gallery == arguments.options.end() ? arguments.images : gallery->second;
  if (network) json["flip"] = arguments.flip;
  write_file_durably(arguments.json, json.dump(2) + "\n");
}

void eval(const CLI::App& command, EvalArguments arguments) {
  arguments.model.split();
  const bool file = is_embeddings_file(arguments.model.what);
  const EmbedFunction features = baseline(arguments.model.what);
  if (file) check_used(command, arguments, {"--no-flip", "--batch", "--device"});
  if (features) check_used(command, arguments, {"--no-flip", "--device"});
  take_options(command, arguments);
  check_sets(arguments, file);
  if (file) arguments.images = arguments.model.what;
  if (features) arguments.flip = false;
  const Config section = section_of(arguments);
  resolve_evaluation_set(section);
  const auto world = World::create({arguments.device, 0});
  if (world->comm().rank() == 0 && !arguments.json.empty()) check_writable(arguments.json);
  std::string described = arguments.model.what;
  const Evaluation result = file       ? evaluate_files(section, world->comm())
                            : features ? run_evaluation(open_evaluation_set(section, {}), features,
                                                        arguments.batch, world->comm())
                                       : evaluate_model(arguments, section, *world, described);
  if (world->comm().rank() != 0) return;
  if (!arguments.json.empty()) write_json(arguments, result, described, file, !file && !features);
  if (file) log_info("(embeddings as they are: no mirrored image added)");
  fmt::print("{}", result.text);
}

void add_protocol_options(CLI::App& command, EvalArguments& arguments) {
  for (const auto& [key, field] : own_options())
    command
        .add_option(option_name(key), arguments.options[key],
                    field.meaning + (field.fallback.empty() || field.fallback == "\"\""
                                         ? ""
                                         : fmt::format(" [{}]", field.fallback)))
        ->type_name(!field.allowed.empty() ? field.allowed : "VALUE");
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto arguments = std::make_shared<EvalArguments>();
  auto* command = app.add_subcommand("eval",
                                     "evaluate a network or embeddings by a protocol (pairs, "
                                     "identification); under mpirun on all ranks");
  arguments->model.add(
      *command,
      "run folder, checkpoint folder, file (.safetensors, .pt, .pth), embeddings (.npy, .h5), "
      "or baseline:pixels, baseline:histogram (what no training reaches)");
  command->add_option("--protocol", arguments->protocol, "what to evaluate")
      ->check(CLI::IsMember(Protocols::get().names()))
      ->capture_default_str();
  command->add_option("--images", arguments->images, "folder of images, or shards")
      ->type_name("DIR|SHARDS");
  add_protocol_options(*command, *arguments);
  command->add_flag("--flip,!--no-flip", arguments->flip,
                    "add the embedding of the mirrored image (default)");
  command->add_option("--device", arguments->device, "cpu | cuda | cuda:N")->capture_default_str();
  command->add_option("--batch", arguments->batch, "images at once")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command
      ->add_option("--json", arguments->json,
                   "also write all figures, curves and hardest cases to this file")
      ->type_name("FILE");
  command->footer(
      "Examples:\n"
      "  facetrain eval runs/a --protocol pairs --images lfw/images --pairs lfw/pairs.txt --json "
      "lfw.json\n"
      "  facetrain eval weights.safetensors --images sets/synth-test --pairs "
      "sets/synth-test/pairs.csv model.name=iresnet18\n"
      "  facetrain eval embeddings.npy --protocol pairs --pairs pairs.csv\n"
      "  facetrain eval runs/a --protocol identification --images orl --ranks 1,5\n"
      "  facetrain eval runs/a --protocol identification --gallery sets/enrolled --probe "
      "sets/seen --gallery-template mean\n"
      "  facetrain eval enrolled.h5 --protocol identification --probe seen.h5");
  command->callback([command, arguments] { eval(*command, *arguments); });
}

}  // namespace facetrain
