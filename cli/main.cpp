// facetrain: parse the command line, run one subcommand, turn an Error into one message and an exit code.
#include <CLI/CLI.hpp>

#include <cstdio>

#include "cli/commands.h"
#include "comm/world.h"
#include "core/check.h"
#include "core/log.h"

int main(int argc, char** argv) {
  using namespace facetrain;
  CLI::App app{"facetrain: distributed training of face models"};
  app.set_version_flag("--version", FACETRAIN_VERSION);
  app.require_subcommand(1);
  app.footer("Example:\n  facetrain shards synth --out sets/synth --identities 500 --images 20\n"
             "  launch/local.sh 2 configs/recognition/iresnet18_synth.yaml run=runs/a");
  add_train_command(app);
  add_list_command(app);
  add_shards_command(app);
  add_eval_command(app);
  add_embed_command(app);
  add_export_command(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    app.exit(error);
    return 2;
  } catch (const ExitCode& code) {
    return code.value;
  } catch (const Error& error) {
    std::fflush(stdout);
    if (log_size() > 1) fmt::print(stderr, "[rank {}] {}: {}\n", log_rank(), error.place(), error.what());
    else fmt::print(stderr, "facetrain: {}: {}\n", error.place(), error.what());
    abort_world(1);
  } catch (const std::exception& error) {
    std::fflush(stdout);
    fmt::print(stderr, "[rank {}] {}\n", log_rank(), error.what());
    abort_world(1);
  }
  return 0;
}
