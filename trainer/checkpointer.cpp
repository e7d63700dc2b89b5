#include "trainer/checkpointer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <fstream>

#include "comm/world.h"
#include "core/durable_file.h"
#include "core/log.h"
#include "core/random.h"

namespace facetrain {
namespace fs = std::filesystem;
namespace {

// A copy that training cannot change: the next step starts while the writer works.
torch::Tensor snapshot_of(const torch::Tensor& tensor) {
  const torch::Tensor detached = tensor.detach();
  return detached.is_cpu() ? detached.clone(at::MemoryFormat::Contiguous)
                           : detached.cpu().contiguous();
}

CheckpointTensors snapshot_of(const CheckpointTensors& tensors, bool with_replicated) {
  CheckpointTensors copy;
  if (with_replicated) {
    for (const auto& [name, tensor] : tensors.model)
      copy.model.emplace_back(name, snapshot_of(tensor));
    for (const auto& [name, tensor] : tensors.optimizer)
      copy.optimizer.emplace_back(name, snapshot_of(tensor));
  }
  for (const auto& rows : tensors.rows) {
    copy.rows.push_back(rows);
    copy.rows.back().tensor = snapshot_of(rows.tensor);
  }
  return copy;
}

// One line that names a checkpoint: `latest`, `best`.
std::string read_pointer(const fs::path& file) {
  std::ifstream in(file);
  std::string name;
  std::getline(in, name);
  return name;
}

// Rank 0 leaves a mark that every rank must see: a run folder on local disks would lose the other
// ranks' parts.
void check_shared(const fs::path& run, Communicator& comm) {
  const auto token = at::empty({1}, at::kLong);
  const fs::path mark = run / ".shared";
  if (comm.rank() == 0) {
    token[0] =
        static_cast<int64_t>(random_key(static_cast<uint64_t>(
                                 std::chrono::steady_clock::now().time_since_epoch().count())) >>
                             1);
    write_file_durably(mark, fmt::format("{}\n", token.item<int64_t>()));
  }
  comm.broadcast(token, 0).wait();
  const bool seen = read_pointer(mark) == fmt::format("{}", token.item<int64_t>());
  const auto blind = at::full({1}, seen ? 0 : 1, at::kLong);
  comm.all_reduce(blind, ReduceOp::kSum).wait();
  FT_CHECK(blind.item<int64_t>() == 0,
           "run folder {}: {} of {} ranks do not see what rank 0 writes there; put `run` on a file "
           "system that all hosts share",
           run.string(), blind.item<int64_t>(), comm.size());
  comm.barrier();
  if (comm.rank() == 0) fs::remove(mark);
}

}  // namespace

Checkpointer::Checkpointer(fs::path run, const CheckpointOptions& options, Communicator& comm)
    : run_(std::move(run)), options_(options), comm_(comm) {
  check_shared(run_, comm_);
  if (comm_.rank() == 0)
    for (const auto& item : fs::directory_iterator(run_))
      if (item.path().filename().string().ends_with(".tmp")) fs::remove_all(item.path());
  comm_.barrier();
}

Checkpointer::~Checkpointer() {
  if (writer_.joinable()) writer_.join();
}

void Checkpointer::save(const CheckpointMeta& meta, const CheckpointTensors& tensors, bool best) {
  finish();
  name_ = checkpoint_name(meta.state.step);
  best_ = best;
  if (is_checkpoint(run_ / name_)) {  // a resume that ends where it began
    if (best_ && comm_.rank() == 0) write_file_durably(run_ / "best", name_ + "\n");
    return;
  }
  auto copy = std::make_shared<CheckpointTensors>(snapshot_of(tensors, comm_.rank() == 0));
  part_ = Part::kWriting;
  problem_.clear();
  writer_ = std::thread([this, meta, copy, folder = run_ / (name_ + ".tmp")] {
    try {
      write(folder, meta, *copy);
      part_ = Part::kWritten;
    } catch (const std::exception& error) {
      problem_ = error.what();
      part_ = Part::kFailed;
    }
  });
}

void Checkpointer::write(const fs::path& folder, const CheckpointMeta& meta,
                         const CheckpointTensors& snapshot) {
  std::error_code error;
  fs::create_directories(folder, error);  // by whichever rank comes first
  FT_CHECK(!error, "{}: cannot make this folder: {}", folder.string(), error.message());
  NamedTensors rows;
  Metadata ranges;
  for (const auto& item : snapshot.rows) {
    rows.emplace_back(item.name, item.tensor);
    ranges[item.name] = fmt::format("{},{},{}", item.begin, item.end, item.total);
  }
  if (!rows.empty())
    save_safetensors(folder / fmt::format("rows_{}.safetensors", comm_.rank()), rows, ranges);
  if (comm_.rank() != 0) return;
  save_safetensors(folder / "model.safetensors", snapshot.model);
  save_safetensors(folder / "optimizer.safetensors", snapshot.optimizer);
  write_meta(folder, meta);
}

void Checkpointer::conclude(double written, double failed) {
  if (part_ == Part::kIdle || written + failed < comm_.size()) return;
  if (writer_.joinable()) writer_.join();
  if (part_ == Part::kFailed)
    log_warn("checkpoint {} not written: {}; training goes on, the previous checkpoint stays",
             name_, problem_);
  part_ = Part::kIdle;
  if (comm_.rank() != 0) return;
  try {
    if (failed > 0)
      fs::remove_all(run_ / (name_ + ".tmp"));
    else
      complete();
  } catch (const std::exception& error) {
    log_warn("checkpoint {}: {}; training goes on", name_, error.what());
  }
}

bool Checkpointer::finish() {
  if (writer_.joinable()) writer_.join();
  const auto sums = at::tensor({written(), failed()}, at::kDouble);
  comm_.all_reduce(sums, ReduceOp::kSum).wait();
  const double written_parts = sums[0].item<double>(), failed_parts = sums[1].item<double>();
  conclude(written_parts, failed_parts);
  comm_.barrier();  // what rank 0 renamed is there for everybody
  return failed_parts == 0;
}

void Checkpointer::complete() {
  sync_folder(run_ / (name_ + ".tmp"));
  rename_durably(run_ / (name_ + ".tmp"), run_ / name_);
  write_file_durably(run_ / "latest", name_ + "\n");
  if (best_) write_file_durably(run_ / "best", name_ + "\n");
  prune();
}

void Checkpointer::prune() {
  if (options_.keep == 0) return;
  const std::string best = read_pointer(run_ / "best");
  std::vector<std::string> names;
  for (const auto& item : fs::directory_iterator(run_)) {
    const std::string name = item.path().filename();
    if (name.starts_with("step_") && is_checkpoint(item.path()) && name != best)
      names.push_back(name);
  }
  std::sort(names.rbegin(), names.rend());
  for (size_t i = static_cast<size_t>(options_.keep); i < names.size(); ++i) {
    // Renamed first: a kill in the middle of the removal must not leave half a checkpoint under a
    // final name.
    const fs::path doomed = run_ / (names[i] + ".old.tmp");
    fs::rename(run_ / names[i], doomed);
    fs::remove_all(doomed);
  }
}

}  // namespace facetrain
