// What a person and a script see of a run: metrics.jsonl (one object a line), lines in a log, a
// progress line on a terminal.
#pragma once

#include <chrono>
#include <filesystem>
#include <fstream>
#include <map>
#include <string>

#include "trainer/progress.h"

namespace facetrain {

class Reporter {
 public:
  // Rank 0 appends to run/metrics.jsonl; lines of steps after `resumed_step` (an interrupted run
  // wrote them, this one will again) are dropped first. Other ranks write nothing.
  Reporter(const std::filesystem::path& run, int rank, int64_t resumed_step);

  struct Line {
    int64_t step = 0;  // steps done
    double epoch = 0, lr = 0, gradient_norm = 0, loss_scale = 1;
    int64_t samples = 0, skipped_steps = 0, skipped_samples = 0;
    double data_wait = 0;                 // seconds that rank 0 waited since the last line
    std::map<std::string, double> means;  // "loss" among them
  };
  // A logged step. Adds samples_per_second since the last line, ETA and memory.
  void log(Line line, int64_t total_steps);
  // Figures of an evaluation: {"step": .., "eval": {name: value}}.
  void evaluation(int64_t step, const std::map<std::string, double>& figures, double seconds);
  // Time that is not training (an evaluation) does not count in samples_per_second and ETA.
  void restart_clock(int64_t step, int64_t samples);

 private:
  void append(const std::string& line);
  std::ofstream file_;
  std::filesystem::path path_;
  int rank_;
  std::chrono::steady_clock::time_point since_;
  int64_t samples_since_ = 0, step_since_ = 0;
};

}  // namespace facetrain
