// A run folder as a report wants it: curves, sessions, checkpoints. Reads files that a killed run
// may have left half-written, and says how much of them it could not read.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace facetrain {

struct Curve {
  std::string name;
  std::vector<double> step, value;  // NaN where metrics.jsonl has null
};

struct CheckpointEntry {
  std::string name;  // of the folder
  int64_t step = 0;
  uint64_t bytes = 0;
  bool latest = false, best = false;
};

struct RunHistory {
  std::filesystem::path run;
  std::string config;                  // text of config.yaml
  std::vector<nlohmann::json> events;  // of sessions.jsonl, in order
  std::vector<Curve> training;         // every number of the logged steps; `loss` first
  std::vector<Curve> evaluation;       // "lfw.accuracy"
  int64_t steps = 0;                   // the last that was logged
  int64_t logged = 0, evaluations = 0;
  std::map<std::string, double> seconds;  // where time went: phases of steps, and "evaluation"
  std::vector<CheckpointEntry> checkpoints;
  int64_t broken_lines = 0;  // of metrics.jsonl and sessions.jsonl

  const Curve* training_curve(const std::string& name) const;
  // The last event of this kind ("start", "end"); an empty object when there is none.
  nlohmann::json last_event(const std::string& kind) const;
};

// A value of an event; "" and 0 where it has none of that kind.
std::string string_of(const nlohmann::json& event, const char* key);
double number_of(const nlohmann::json& event, const char* key);
int64_t integer_of(const nlohmann::json& event, const char* key);

// Throws when `run` is not a run folder; what is missing in one is empty.
RunHistory read_run(const std::filesystem::path& run);

}  // namespace facetrain
