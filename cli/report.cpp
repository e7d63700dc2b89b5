// facetrain report: one HTML page of a run, for people who were not there.
#include <CLI/CLI.hpp>
#include <memory>

#include "cli/commands.h"
#include "cli/model_arguments.h"
#include "cli/version.h"
#include "comm/world.h"
#include "core/check.h"
#include "core/durable_file.h"
#include "core/log.h"
#include "trainer/report/report_page.h"

namespace facetrain {
namespace {

struct ReportArguments {
  ModelArguments run;
  std::string out, device = "cpu";
  bool evaluate = true;
  size_t pictures = 8;
};

void report(ReportArguments arguments) {
  arguments.run.split();
  const std::filesystem::path run = arguments.run.what;
  ReportInput input;
  input.history = read_run(run);
  input.output = arguments.out.empty() ? run / "report.html" : std::filesystem::path(arguments.out);
  input.program = program_version();
  check_writable(input.output);
  if (arguments.evaluate) {
    const auto world = World::create({arguments.device, 0});
    FT_CHECK(world->comm().size() == 1, "report: wanted one process, found {}: leave mpirun away",
             world->comm().size());
    input.evaluation = evaluate_run(input.history, {arguments.run.overrides, arguments.pictures},
                                    world->comm(), world->device());
  } else {
    input.evaluation.problem = "asked for with --no-eval";
  }
  const std::string page = report_page(input);
  write_file_durably(input.output, page);
  log_info("{}: {} steps, {} evaluations, {} kB; open it in a browser", input.output.string(),
           input.history.steps, input.history.evaluations, page.size() / 1000);
}

}  // namespace

void add_report_command(CLI::App& app) {
  auto arguments = std::make_shared<ReportArguments>();
  auto* command = app.add_subcommand(
      "report", "write one HTML page of a run that needs no network: curves, evaluation, pictures");
  arguments->run.add(*command, "run folder; it may still be training");
  command->add_option("-o,--out", arguments->out, "the page; default: RUN/report.html")
      ->type_name("FILE");
  command->add_flag("--eval,!--no-eval", arguments->evaluate,
                    "evaluate the newest checkpoint on the sets of eval.sets (default)");
  command->add_option("--pictures", arguments->pictures, "hardest pairs of each kind and set")
      ->check(CLI::Range(0, 24))
      ->capture_default_str();
  command->add_option("--device", arguments->device, "cpu | cuda | cuda:N")->capture_default_str();
  command->footer(
      "A set that cannot be read is named in the page; the others are evaluated.\n"
      "Examples:\n"
      "  facetrain report runs/a -o report.html\n"
      "  facetrain report runs/a --no-eval\n"
      "  facetrain report runs/a 'eval.sets=[{path: lfw/images, pairs: lfw/pairs.txt}]' "
      "data.fit=resize");
  command->callback([arguments] { report(*arguments); });
}

}  // namespace facetrain
