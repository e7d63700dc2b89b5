// facetrain train: CONFIG [section.key=value ...], --resume RUN, --print-config.
#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/version.h"
#include "comm/world.h"
#include "trainer/checkpoint.h"
#include "trainer/recipe.h"
#include "trainer/run.h"
#include "trainer/run_options.h"

namespace facetrain {
namespace {

constexpr int kCheckpointedOnSignal = 85;

struct TrainArguments {
  std::vector<std::string> words;  // the configuration file and overrides, in any order
  std::string resume;
  bool print_config = false, verbose = false;
};

// Splits the words into at most one file and overrides.
std::pair<std::string, std::vector<std::string>> split_words(
    const std::vector<std::string>& words) {
  std::string file;
  std::vector<std::string> overrides;
  for (const auto& word : words) {
    if (word.find('=') != std::string::npos) {
      overrides.push_back(word);
      continue;
    }
    if (!file.empty())
      throw CLI::ValidationError(
          "train",
          fmt::format(
              "wanted one configuration file and overrides section.key=value, found '{}' and '{}'",
              file, word));
    file = word;
  }
  return {file, overrides};
}

// --resume wants the run; somebody who names one of its checkpoints may mean something else.
void check_is_run(const std::string& resume) {
  const std::filesystem::path path = std::filesystem::path(resume).lexically_normal();
  const std::filesystem::path folder = path.has_filename() ? path : path.parent_path();
  const auto checkpoint = follow_pointer(folder);
  if (!is_checkpoint(checkpoint)) return;
  const auto run = checkpoint.parent_path();
  throw CLI::ValidationError(
      "train", fmt::format("--resume {}: this names a checkpoint: --resume {} continues from the "
                           "newest; to start from this one: model.init={}",
                           resume, run.empty() ? "." : run.string(),
                           (checkpoint / "model.safetensors").string()));
}

Config read_config(const TrainArguments& arguments) {
  auto [file, overrides] = split_words(arguments.words);
  if (arguments.resume.empty()) {
    if (file.empty())
      throw CLI::ValidationError("train", "wanted a configuration file, or --resume RUN");
    return Config::load(file, overrides);
  }
  if (!file.empty())
    throw CLI::ValidationError(
        "train",
        fmt::format("--resume takes the configuration of the run; '{}' is one too many", file));
  for (const auto& word : overrides)
    if (word.starts_with("run="))
      throw CLI::ValidationError(
          "train", fmt::format("--resume continues in the folder of the run, '{}'; '{}' asks for "
                               "another: leave it out, or copy the folder and resume the copy",
                               arguments.resume, word));
  check_is_run(arguments.resume);
  Config config = run_config(arguments.resume);
  config.override_with(overrides);
  config.set("run", arguments.resume);  // the folder may have moved since
  return config;
}

void train(const TrainArguments& arguments) {
  install_signal_handlers();  // first: a signal during the start waits for the first step
  Config config = read_config(arguments);
  resolve_config(config);
  if (arguments.print_config) {
    fmt::print("{}", config.dump());
    return;
  }
  const auto options = config.as<RunOptions>();
  const auto world = World::create({options.device, static_cast<int>(options.trainer.threads)});
  const RunEnd end =
      run_training({config, !arguments.resume.empty(), arguments.verbose},
                   {world->comm(), world->device(), world->describe(), program_version()});
  if (end == RunEnd::kCheckpointedOnSignal) throw ExitCode{kCheckpointedOnSignal};
}

}  // namespace

void add_train_command(CLI::App& app) {
  auto arguments = std::make_shared<TrainArguments>();
  auto* command = app.add_subcommand("train", "train a model; under mpirun on all its ranks");
  command
      ->add_option("config", arguments->words,
                   "configuration file, then overrides section.key=value")
      ->type_name("CONFIG [section.key=value ...]");
  command
      ->add_option("--resume", arguments->resume,
                   "run folder to continue from its newest checkpoint, at any world size")
      ->type_name("RUN");
  command->add_flag("--print-config", arguments->print_config,
                    "print the resolved configuration and end");
  command->add_flag("-v,--verbose", arguments->verbose, "also print parameter groups");
  command->footer(
      "Exit codes: 0 done, 1 error, 2 wrong usage, 85 checkpointed on SIGUSR1 or SIGTERM.\n"
      "Examples:\n"
      "  facetrain train configs/recognition/iresnet18_synth.yaml run=runs/a optimizer.lr=0.05\n"
      "  mpirun -np 4 --bind-to none facetrain train configs/recognition/iresnet50_ms1mv3.yaml "
      "run=runs/b\n"
      "  mpirun -np 3 --bind-to none facetrain train --resume runs/b trainer.epochs=25");
  command->callback([arguments] { train(*arguments); });
}

}  // namespace facetrain
