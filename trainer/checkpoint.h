// What a checkpoint holds, and reading it: named tensors in safetensors, complete or absent, at any
// world size.
//
// A folder `step_000120000/`: model.safetensors (replicated parameters and buffers, averages under
// `ema.`), optimizer.safetensors (`<parameter>.<state>`), rows_<rank>.safetensors (sharded tensors
// and their state, with
// __metadata__[name] = "begin,end,total") and meta.yaml. A folder without its final name does not
// exist. docs/formats.md.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/config.h"
#include "core/safetensors.h"
#include "core/torch.h"
#include "trainer/progress.h"

namespace facetrain {

// A tensor of which this rank holds rows [begin, end) of `total`.
struct RowsTensor {
  std::string name;
  torch::Tensor tensor;
  int64_t begin, end, total;
};

// Everything that must survive; the tensors are the live ones.
struct CheckpointTensors {
  NamedTensors model, optimizer;
  std::vector<RowsTensor> rows;
};

struct CheckpointMeta {
  TrainState state;
  uint64_t seed = 0;
  int world_size = 1;
  std::string config;  // YAML of the resolved configuration
};

constexpr int64_t kCheckpointVersion = 1;

// "step_000120000", and the step of such a name; nothing for any other.
std::string checkpoint_name(int64_t step);
std::optional<int64_t> checkpoint_step(const std::filesystem::path& folder);
// The newest complete checkpoint of a run folder; nothing when it has none.
std::optional<std::filesystem::path> newest_checkpoint(const std::filesystem::path& run);
// The checkpoint that RUN/best or RUN/latest names; any other path as it is. Throws where such a
// file does not exist, or names a checkpoint that does not.
std::filesystem::path follow_pointer(const std::filesystem::path& path);
// True for a folder that holds a meta.yaml.
bool is_checkpoint(const std::filesystem::path& folder);

// Throws for a missing, damaged or future meta.yaml, naming it.
CheckpointMeta read_meta(const std::filesystem::path& checkpoint);
void write_meta(const std::filesystem::path& checkpoint, const CheckpointMeta& meta);

// Fills the live tensors, rows resliced from whatever world size wrote them. Names and shapes must
// be the same on both sides (optimizer state included): anything else is another network's
// checkpoint and an error that says which tensor.
void read_checkpoint(const std::filesystem::path& checkpoint, const CheckpointTensors& tensors);

}  // namespace facetrain
