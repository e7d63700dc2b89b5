// From a configuration to a finished run: makes every object in one visible order and starts the loop.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "core/config.h"
#include "trainer/trainer.h"

namespace facetrain {

struct RunRequest {
  Config config;              // not resolved yet
  bool resume = false;        // continue config.run from its newest checkpoint
  bool verbose = false;       // also print parameter groups
};

// **Collective.** Trains; everything that a user may have got wrong is an error before the first step.
RunEnd run_training(const RunRequest& request);

// The configuration that a run folder was started with, for a resume or an evaluation. Throws when there is none.
Config run_config(const std::filesystem::path& run);

}  // namespace facetrain
