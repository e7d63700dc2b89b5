// From a configuration to a finished run: makes every object in one visible order and starts the
// loop.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/config.h"
#include "trainer/trainer.h"

namespace facetrain {

struct RunRequest {
  Config config;         // resolve_config() has checked it; not changed
  bool resume = false;   // continue config.run from its newest checkpoint
  bool verbose = false;  // also print parameter groups
};

// Where it runs: a World's parts, or a thread rank's in a test.
struct RunPlace {
  Communicator& comm;
  c10::Device device;
  std::string description;                  // for the banner
  std::string program = FACETRAIN_VERSION;  // the same
};

// **Collective.** Trains; everything that a user may have got wrong is an error before the first
// step.
RunEnd run_training(const RunRequest& request, const RunPlace& place);

// The configuration that a run folder was started with, for a resume or an evaluation. Throws when
// there is none.
Config run_config(const std::filesystem::path& run);

}  // namespace facetrain
