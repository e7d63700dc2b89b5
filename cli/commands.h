// The subcommands of the program, one file each. Each function adds its subcommand, whose callback
// does the work.
#pragma once

namespace CLI {
class App;
}

namespace facetrain {

void add_train_command(CLI::App& app);
void add_list_command(CLI::App& app);
void add_shards_command(CLI::App& app);
void add_eval_command(CLI::App& app);
void add_embed_command(CLI::App& app);
void add_export_command(CLI::App& app);
void add_report_command(CLI::App& app);

// Thrown by a subcommand that ends with a code of its own (85: checkpointed on a signal).
struct ExitCode {
  int value;
};

}  // namespace facetrain
