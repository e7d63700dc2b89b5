// What a run is, told when it starts: the banner for a person, and a line of RUN/sessions.jsonl for
// `facetrain report`. A session is one start of the program on a run; a resume is a further one.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "trainer/append_file.h"

namespace facetrain {

struct RunFacts {
  std::string program;  // "0.1.0, commit 1f0c..."
  std::string place;    // "2 ranks, 1 thread each, MPI (Open MPI 4.1.4), cpu"
  std::string run, recipe, loss, network, optimizer, schedule, precision, device;
  std::vector<std::string> sets, evaluation_sets;
  std::vector<std::string> groups;      // of the optimizer, a line each
  int64_t ranks = 1, threads = 1;       // threads of each rank
  int64_t images = 0, identities = 0;   // of the training sets
  int64_t classes = 0;                  // of the classifier; 0: the recipe has none
  int64_t parameters = 0, sharded = 0;  // trained numbers
  std::vector<std::string> frozen;      // tensors
  int64_t image_size = 0, batch_size = 0, accumulate = 1;
  int64_t steps = 0;  // of the whole run
  double steps_per_epoch = 1, lr = 0;
  std::string evaluate_every, checkpoint_every;  // "1 epochs"; empty: never
};

// The lines that a run starts with. Rank 0.
void print_banner(const RunFacts& facts);

// Keeps RUN/sessions.jsonl: {"event": "start", ..} and {"event": "end", ..}. A killed session has
// no end.
class SessionLog {
 public:
  // Only rank 0 writes. `step`: steps done before this session.
  SessionLog(const RunFacts& facts, int rank, int64_t step);
  // `how`: "done" or "signal".
  void end(int64_t step, const std::string& how);

 private:
  std::unique_ptr<AppendFile> file_;  // rank 0's
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

// The facts, the machine and the libraries as one object; what SessionLog writes at the start.
nlohmann::ordered_json describe_session(const RunFacts& facts);

}  // namespace facetrain
