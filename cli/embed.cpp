// facetrain embed: raw embeddings of a folder of images or of shards.
#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/model_arguments.h"
#include "comm/world.h"
#include "core/durable_file.h"
#include "core/log.h"
#include "eval/embeddings.h"
#include "eval/labels.h"
#include "eval/protocol.h"
#include "trainer/model_loader.h"

namespace facetrain {
namespace {

struct EmbedArguments {
  ModelArguments model;
  std::string out, device = "cpu";
  int64_t batch = 64;
};

void embed(EmbedArguments arguments) {
  arguments.model.split();
  if (!is_embeddings_file(arguments.out))
    throw CLI::ValidationError(
        "embed", "wanted -o FILE that ends in .h5 or .npy, found '" + arguments.out + "'");
  const auto world = World::create({arguments.device, 0});
  if (world->comm().rank() == 0) check_writable(arguments.out);
  const LoadedModel model =
      load_model(arguments.model.what, arguments.model.overrides, world->device());
  ImageOptions images = model.images;
  images.columns = {"name"};  // of packed images; identities come without being named
  const auto source = open_source(source_of_path(arguments.model.path), images);
  Embeddings result;
  result.rows = embed_source(*source, embed_function(model, world->device()),
                             {.batch = arguments.batch, .flip = false}, world->comm());
  if (world->comm().rank() != 0) return;
  result.names = keys_of(*source);
  result.identities = identities_of(*source);
  write_embeddings(arguments.out, result);
  log_info("{}: {} embeddings of {} numbers, by {}", arguments.out, result.rows.size(0),
           result.rows.size(1), model.describe);
}

}  // namespace

void add_embed_command(CLI::App& app) {
  auto arguments = std::make_shared<EmbedArguments>();
  auto* command = app.add_subcommand(
      "embed",
      "write the network's raw outputs for images (no flip, no normalisation, in path order)");
  arguments->model.add(
      *command,
      "run folder, checkpoint folder or file (.safetensors, .pt, .pth), then images or shards",
      true);
  command
      ->add_option(
          "-o,--out", arguments->out,
          "`embeddings` [N, D], `names` and, where the set has them, `identities` as .h5, or "
          "the array alone as .npy")
      ->type_name("FILE")
      ->required();
  command->add_option("--device", arguments->device, "cpu | cuda | cuda:N")->capture_default_str();
  command->add_option("--batch", arguments->batch, "images at once")
      ->check(CLI::Range(1, 1 << 16))
      ->capture_default_str();
  command->footer(
      "Examples:\n"
      "  facetrain embed runs/a path/to/images -o embeddings.h5\n"
      "  facetrain embed model.safetensors sets/mine -o embeddings.npy data.fit=resize");
  command->callback([arguments] { embed(*arguments); });
}

}  // namespace facetrain
