// The newest checkpoint of a run on its `eval.sets`, with what a person wants to see of it:
// figures, curves, and pictures of what the network finds hardest.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "eval/identification.h"
#include "eval/verification.h"
#include "trainer/report/run_history.h"

namespace facetrain {

struct Picture {
  std::string uri, name;  // data: URI of a JPEG; path below the folder, or "image 17" of the set
};
struct PairPicture {
  HardPair pair;
  bool accepted = false;  // by the threshold of its fold
  Picture first, second;
};
struct ProbePicture {
  HardProbe probe;
  Picture image, best;  // the probe; the entry of another identity that it was taken for
};

struct SetEvaluation {
  std::string name;
  std::string problem;                    // why there is no result; then the rest is empty
  std::map<std::string, double> figures;  // of any protocol
  std::shared_ptr<const Verification> verification;
  std::shared_ptr<const Identification> identification;
  std::vector<PairPicture> pairs;    // same first, hardest first
  std::vector<ProbePicture> probes;  // hardest first
  double seconds = 0;

  double cosine_threshold() const;  // of a verification: mean over its folds
};

struct RunEvaluation {
  std::string problem;  // why nothing was evaluated; empty where `sets` says more
  std::string model;    // "run runs/a, step_000120000, averaged weights"
  std::vector<SetEvaluation> sets;
};

struct RunEvaluationOptions {
  std::vector<std::string> overrides;  // section.key=value; eval.* changes what is evaluated
  size_t pictures = 8;                 // pairs of each kind and set
};

// Evaluates on one rank. What the run's folder and its sets lack is told in `problem`, not thrown:
// a report of a run without checkpoint is a report. Throws for overrides that are wrong.
RunEvaluation evaluate_run(const RunHistory& history, const RunEvaluationOptions& options,
                           Communicator& comm, c10::Device device);

}  // namespace facetrain
