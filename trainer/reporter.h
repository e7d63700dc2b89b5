// What a person and a script see of a run: metrics.jsonl (one object a line), TensorBoard events,
// lines in a log, a progress line on a terminal.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <memory>
#include <string>

#include "trainer/append_file.h"
#include "trainer/tensorboard.h"

namespace facetrain {

class Reporter {
 public:
  // Rank 0 appends to run/metrics.jsonl; lines of steps after `resumed_step` (an interrupted run
  // wrote them, this one will again) are dropped first. Other ranks write nothing. Throws when a
  // file cannot be written; a disk that fills up later is a warning.
  Reporter(const std::filesystem::path& run, int rank, int64_t resumed_step, bool tensorboard);

  struct Line {
    int64_t step = 0;  // steps done
    double epoch = 0, lr = 0, gradient_norm = 0, loss_scale = 1;
    int64_t samples = 0, skipped_steps = 0, skipped_samples = 0;
    double data_wait = 0;                  // seconds that rank 0 waited since the last line
    std::map<std::string, double> means;   // "loss" among them
    std::map<std::string, double> phases;  // seconds since the last line, by trainer/phase_clock.h
  };
  // A logged step. Adds samples_per_second since the last line, ETA and memory.
  void log(Line line, int64_t total_steps);
  // Figures of an evaluation: {"step": .., "eval": {name: value}}. Its seconds do not count in
  // samples_per_second and ETA.
  void evaluation(int64_t step, const std::map<std::string, double>& figures, double seconds);
  // The first step begins now.
  void start_clock(int64_t step, int64_t samples);

 private:
  void tell(const Line& line, double rate, double wait, int64_t total_steps, double step_seconds);
  std::unique_ptr<AppendFile> metrics_;             // rank 0's
  std::unique_ptr<TensorboardWriter> tensorboard_;  // rank 0's, where wanted
  std::chrono::steady_clock::time_point since_;
  int64_t samples_since_ = 0, step_since_ = 0;
};

}  // namespace facetrain
