// facetrain: parse the command line, run one subcommand, turn an Error into one message and an exit
// code.
#include <c10/util/Exception.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <string>

#include "cli/commands.h"
#include "cli/usage.h"
#include "cli/version.h"
#include "comm/world.h"
#include "core/check.h"
#include "core/log.h"

namespace facetrain {
namespace {

// One message from one rank, and the whole job ends.
[[noreturn]] void fail(const std::string& message) {
  std::fflush(stdout);
  fail_world(1, log_size() > 1 ? fmt::format("[rank {}] {}", log_rank(), message)
                               : "facetrain: " + message);
}

}  // namespace
}  // namespace facetrain

int main(int argc, char** argv) {
  using namespace facetrain;
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file size is an error of the write, not the end
  // Known before MPI runs, so that an early error names its rank.
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
  const char* size = std::getenv("OMPI_COMM_WORLD_SIZE");
  if (rank != nullptr && size != nullptr) set_log_rank(std::atoi(rank), std::atoi(size));
  CLI::App app{"facetrain: distributed training of face models"};
  app.set_version_flag("--version", program_version());
  app.require_subcommand(1);
  app.footer(
      "Example:\n  facetrain shards synth --out sets/synth --identities 500 --images 20\n"
      "  launch/local.sh 2 configs/recognition/iresnet18_synth.yaml run=runs/a");
  add_train_command(app);
  add_list_command(app);
  add_shards_command(app);
  add_eval_command(app);
  add_embed_command(app);
  add_export_command(app);
  add_report_command(app);
  if (argc == 1) {
    fmt::print("{}", app.help());
    return 2;
  }
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& error) {
    const std::string problem = usage_problem(app, {argv + 1, argv + argc});
    if (problem.empty())
      app.exit(error);
    else
      fmt::print(stderr, "{}\nRun with --help for more information.\n", problem);
    return 2;
  } catch (const ExitCode& code) {
    return code.value;
  } catch (const Error& error) {
    fail(fmt::format("{}: {}", error.place(), error.what()));
  } catch (const c10::Error& error) {
    fail(error.what_without_backtrace());
  } catch (const std::exception& error) {
    fail(error.what());
  }
  return 0;
}
