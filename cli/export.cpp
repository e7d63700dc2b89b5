// facetrain export: the trained network as a file for the world outside.
#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/model_arguments.h"
#include "core/durable_file.h"
#include "core/log.h"
#include "export/exporter.h"
#include "trainer/model_loader.h"

namespace facetrain {
namespace {

struct ExportArguments {
  ModelArguments model;
  std::string format, out;
};

void export_model(ExportArguments arguments) {
  arguments.model.split();
  check_writable(arguments.out);
  const LoadedModel model = load_model(arguments.model.what, arguments.model.overrides, c10::kCPU);
  auto section = std::make_shared<ConfigNode>();
  section->kind = ConfigNode::Kind::kMap;
  section->path = "--to";
  section->map.emplace_back("name", config_detail::write(arguments.format));
  write_export(Config(section), *model.backbone, {model.config, model.describe}, arguments.out);
  int64_t parameters = 0;
  for (const auto& parameter : model.backbone->parameters()) parameters += parameter.numel();
  log_info("{}: {} of {}, {} parameters, read back and compared", arguments.out, arguments.format,
           model.describe, parameters);
}

}  // namespace

void add_export_command(CLI::App& app) {
  auto arguments = std::make_shared<ExportArguments>();
  auto* command = app.add_subcommand("export", "write the network as a file for other programs");
  arguments->model.add(*command, "run folder, checkpoint folder or .safetensors file");
  command
      ->add_option("--to", arguments->format,
                   fmt::format("format: {}", fmt::join(Exporters::get().names(), ", ")))
      ->type_name("FORMAT")
      ->required();
  command->add_option("-o,--out", arguments->out, "the file to write")
      ->type_name("FILE")
      ->required();
  command->footer("Example:\n  facetrain export runs/a --to safetensors -o model.safetensors");
  command->callback([arguments] { export_model(*arguments); });
}

}  // namespace facetrain
