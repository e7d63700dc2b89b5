// facetrain eval: pair verification of a network, or of embeddings that somebody has computed.
#include <CLI/CLI.hpp>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/commands.h"
#include "cli/model_arguments.h"
#include "comm/world.h"
#include "core/durable_file.h"
#include "core/log.h"
#include "eval/baselines.h"
#include "eval/embeddings.h"
#include "eval/pair_set.h"
#include "eval/verification.h"
#include "trainer/model_loader.h"

namespace facetrain {
namespace {

struct EvalArguments {
  ModelArguments model;
  std::string protocol = "pairs", images, pairs, json, device = "cpu";
  bool flip = true;
  int64_t batch = 64;
};

Verification evaluate_file(const EvalArguments& arguments) {
  const Embeddings embeddings = read_embeddings(arguments.model.what);
  FT_CHECK(is_csv_pairs(arguments.pairs),
           "{}: embeddings are compared by row, so wanted pairs as CSV 'fold,i,j,same'",
           arguments.pairs);
  return verify_pairs(embeddings.rows, read_csv_pairs(arguments.pairs, embeddings.rows.size(0)),
                      embeddings.names);
}

// The features that need no training, by the word that stands for MODEL; nothing for another word.
EmbedFunction baseline(const std::string& what) {
  if (what == "baseline:pixels") return pixel_features;
  if (what == "baseline:histogram") return histogram_features;
  return {};
}

std::vector<std::string> keys_of(const Source& source) {
  std::vector<std::string> keys;
  for (int64_t row = 0; row < source.size(); ++row) keys.push_back(source.key(row));
  return keys;
}

// **Collective.**
Verification evaluate_baseline(const EvalArguments& arguments, const EmbedFunction& features,
                               World& world) {
  const PairSet set = open_pair_set(arguments.images, arguments.pairs, {});
  const at::Tensor rows =
      embed_source(*set.source, features, {.batch = arguments.batch}, world.comm());
  return verify_pairs(rows, set.pairs, keys_of(*set.source));
}

// **Collective.**
Verification evaluate_model(const EvalArguments& arguments, World& world, std::string& described) {
  const LoadedModel model =
      load_model(arguments.model.what, arguments.model.overrides, world.device());
  described = model.describe;
  log_info("{}", model.describe);
  const PairSet set = open_pair_set(arguments.images, arguments.pairs, model.images);
  const at::Tensor rows =
      embed_source(*set.source, embed_function(model, world.device()),
                   {.batch = arguments.batch, .flip = arguments.flip}, world.comm());
  return verify_pairs(rows, set.pairs, keys_of(*set.source));
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

void eval(const CLI::App& command, EvalArguments arguments) {
  arguments.model.split();
  const bool file = is_embeddings_file(arguments.model.what);
  const EmbedFunction features = baseline(arguments.model.what);
  if (file) check_used(command, arguments, {"--no-flip", "--batch", "--device"});
  if (features) check_used(command, arguments, {"--no-flip", "--device"});
  if (arguments.pairs.empty()) throw CLI::ValidationError("eval", "wanted --pairs FILE");
  if (file == !arguments.images.empty())
    throw CLI::ValidationError("eval", file ? "an embeddings file takes no --images"
                                            : "a network wants --images DIR|SHARDS");
  const auto world = World::create({arguments.device, 0});
  if (world->comm().rank() == 0 && !arguments.json.empty()) check_writable(arguments.json);
  std::string described = arguments.model.what;
  const Verification result = file       ? evaluate_file(arguments)
                              : features ? evaluate_baseline(arguments, features, *world)
                                         : evaluate_model(arguments, *world, described);
  if (world->comm().rank() != 0) return;
  fmt::print("{}", to_text(result));
  if (arguments.json.empty()) return;
  nlohmann::json json = to_json(result);
  json["model"] = described;
  json["pair_list"] = arguments.pairs;
  if (!file) json["images"] = arguments.images;
  if (!file && !features) json["flip"] = arguments.flip;
  write_file_durably(arguments.json, json.dump(2) + "\n");
}

}  // namespace

void add_eval_command(CLI::App& app) {
  auto arguments = std::make_shared<EvalArguments>();
  auto* command = app.add_subcommand(
      "eval", "evaluate a network or embeddings on pairs of images; under mpirun on all ranks");
  arguments->model.add(*command,
                       "run folder, checkpoint folder, .safetensors file, embeddings (.npy, .h5), "
                       "or baseline:pixels, baseline:histogram (what no training reaches)");
  command->add_option("--protocol", arguments->protocol, "what to evaluate")
      ->check(CLI::IsMember({"pairs"}))
      ->capture_default_str();
  command->add_option("--images", arguments->images, "folder of images, or shards")
      ->type_name("DIR|SHARDS");
  command
      ->add_option("--pairs", arguments->pairs,
                   "CSV 'fold,i,j,same' (rows), or LFW's pairs.txt (image names)")
      ->type_name("FILE");
  command->add_flag("--flip,!--no-flip", arguments->flip,
                    "add the embedding of the mirrored image (default)");
  command->add_option("--device", arguments->device, "cpu | cuda | cuda:N")->capture_default_str();
  command->add_option("--batch", arguments->batch, "images at once")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command->add_option("--json", arguments->json, "also write what is printed to this file")
      ->type_name("FILE");
  command->footer(
      "Examples:\n"
      "  facetrain eval runs/a --protocol pairs --images lfw/images --pairs lfw/pairs.txt --json "
      "lfw.json\n"
      "  facetrain eval weights.safetensors --images sets/synth-test --pairs "
      "sets/synth-test/pairs.csv model.name=iresnet18\n"
      "  facetrain eval embeddings.npy --protocol pairs --pairs pairs.csv");
  command->callback([command, arguments] { eval(*command, *arguments); });
}

}  // namespace facetrain
