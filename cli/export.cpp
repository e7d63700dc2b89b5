// facetrain export: the trained network as a file for the world outside.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>

#include "cli/commands.h"
#include "cli/export_card.h"
#include "cli/model_arguments.h"
#include "comm/world.h"
#include "core/durable_file.h"
#include "core/log.h"
#include "core/sha256.h"
#include "export/exporter.h"
#include "trainer/checkpoint.h"
#include "trainer/model_loader.h"

namespace facetrain {
namespace {

struct ExportArguments {
  ModelArguments model;
  std::string format, out, card;
};

Config section_of(const std::string& format) {
  auto section = std::make_shared<ConfigNode>();
  section->kind = ConfigNode::Kind::kMap;
  section->path = "--to";
  section->map.emplace_back("name", config_detail::write(format));
  return Config(section);
}

// Everything about the file that is to be written, but its bytes.
ModelCard describe(const ExportArguments& arguments, const LoadedModel& model,
                   const ExportInfo& info) {
  ModelCard card;
  card.file = std::filesystem::path(arguments.out).filename().string();
  card.title = card.file;
  card.format = arguments.format;
  card.image_size = model.backbone->image_size();
  card.dim = model.backbone->dim();
  for (const auto& parameter : model.backbone->parameters()) card.parameters += parameter.numel();
  card.info = info;
  if (!arguments.card.empty()) describe_training(arguments.model.what, card);
  return card;
}

// Refuses what would fail at the end, before the work.
void check_places(const ExportArguments& arguments, const Config& section) {
  check_extension(section, arguments.out);
  check_writable(arguments.out);
  if (arguments.card.empty()) return;
  FT_CHECK(std::filesystem::path(arguments.card).extension() == ".md",
           "{}: a model card is Markdown and called *.md", arguments.card);
  check_writable(arguments.card);
}

void export_model(ExportArguments arguments) {
  arguments.model.split();
  const auto world = World::create({"cpu", 0});
  FT_CHECK(world->comm().size() == 1, "export: wanted one process, found {}: leave mpirun away",
           world->comm().size());
  arguments.model.what = follow_pointer(arguments.model.what).string();
  const Config section = section_of(arguments.format);
  check_places(arguments, section);
  const LoadedModel model = load_model(arguments.model.what, arguments.model.overrides, c10::kCPU);
  ExportInfo info{model.config, model.describe};
  std::copy_n(model.normalization.mean.begin(), 3, info.mean.begin());
  std::copy_n(model.normalization.deviation.begin(), 3, info.deviation.begin());
  ModelCard card = describe(arguments, model, info);
  write_export(section, *model.backbone, info, arguments.out);
  log_info("{}: {} of {}, {} parameters, read back and compared", arguments.out, arguments.format,
           model.describe, card.parameters);
  if (arguments.card.empty()) return;
  card.bytes = std::filesystem::file_size(arguments.out);
  card.sha256 = sha256_of_file(arguments.out);
  write_file_durably(arguments.card, to_markdown(card));
  log_info("{}: model card", arguments.card);
}

}  // namespace

void add_export_command(CLI::App& app) {
  auto arguments = std::make_shared<ExportArguments>();
  auto* command = app.add_subcommand("export", "write the network as a file for other programs");
  arguments->model.add(*command, "run folder, checkpoint folder or weights");
  command
      ->add_option("--to", arguments->format,
                   fmt::format("format: {}", fmt::join(Exporters::get().names(), ", ")))
      ->type_name("FORMAT")
      ->required();
  command->add_option("-o,--out", arguments->out, "the file to write")
      ->type_name("FILE")
      ->required();
  command
      ->add_option("--card", arguments->card,
                   "also write a model card: data, use, figures with intervals, checksum")
      ->type_name("FILE.md");
  command->footer(
      "Examples:\n"
      "  facetrain export runs/a --to safetensors -o model.safetensors\n"
      "  facetrain export runs/a --to onnx -o model.onnx --card model.md");
  command->callback([arguments] { export_model(*arguments); });
}

}  // namespace facetrain
