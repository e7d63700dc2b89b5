// Writes checkpoints in the background from a snapshot, without a collective in the writer.
//
// save() copies this rank's tensors and starts its writer; each rank's part ends up in
// `step_N.tmp/`. The step's verdict carries how many parts are written; when all are, rank 0
// renames the folder and replaces `latest`. A part that fails (disk full, read-only) is a warning:
// the unfinished folder goes, the previous checkpoint stays, training goes on.
#pragma once

#include <atomic>
#include <filesystem>
#include <functional>
#include <string>
#include <thread>

#include "comm/communicator.h"
#include "trainer/checkpoint.h"

namespace facetrain {

struct CheckpointOptions {
  Duration every{1000, false};
  int64_t keep = 3;
  std::string keep_best;
  void fields(auto& f) {
    f("every", every, at_least(0), "steps or 'N epochs' between checkpoints; 0: only the last one");
    f("keep", keep, at_least(0), "newest checkpoints to keep; 0: all");
    f("keep_best", keep_best,
      "a figure of eval.sets ('lfw.accuracy') whose best checkpoint is kept too, named by the file "
      "`best`; of 'lfw.eer' the lowest value is the best");
  }
};

class Checkpointer {
 public:
  // Takes the run folder for this job (one job at a time) and removes what an interrupted run left
  // unfinished. **Collective**: the run folder must be seen by all ranks (checked).
  Checkpointer(std::filesystem::path run, const CheckpointOptions& options, Communicator& comm);
  ~Checkpointer();  // waits for the writer

  // **Collective.** Snapshots and starts to write; waits for a save that is still in flight first.
  // The same step twice is written once. `best`: `best` shall name this checkpoint when it is
  // complete.
  void save(const CheckpointMeta& meta, const CheckpointTensors& tensors, bool best);
  // 1 when this rank's part of the save in flight is written / has failed, else 0: what the verdict
  // sums.
  double written() const { return part_ == Part::kWritten ? 1 : 0; }
  double failed() const { return part_ == Part::kFailed ? 1 : 0; }
  // With the verdict's sums, the same on every rank: completes or gives up the save in flight when
  // all ranks are done with it. False when this rank knows that it failed.
  bool conclude(double written, double failed);
  // **Collective.** Waits for the save in flight and concludes it. Returns false when it failed.
  bool finish();

 private:
  enum class Part { kIdle, kWriting, kWritten, kFailed };
  void write(const std::filesystem::path& folder, const CheckpointMeta& meta,
             const CheckpointTensors& snapshot);
  void complete();
  void prune();

  std::filesystem::path run_;
  CheckpointOptions options_;
  Communicator& comm_;
  std::atomic<Part> part_{Part::kIdle};
  std::thread writer_;
  int lock_ = -1;     // of the run folder, rank 0
  std::string name_;  // of the save in flight
  bool best_ = false;
  std::string problem_;  // of the writer; read after it ended
};

}  // namespace facetrain
