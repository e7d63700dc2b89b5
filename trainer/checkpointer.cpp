#include "trainer/checkpointer.h"

#include <ATen/ATen.h>
#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
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

// One job at a time writes into a run folder. The kernel drops the lock with the process; the one
// of a killed job may take a moment to go. -1 where the file system knows no locks.
int lock_folder(const fs::path& run) {
  const std::string file = run / ".lock";
  const int lock = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  FT_CHECK(lock >= 0, "{}: cannot write: {}; check the folder's permissions and space", file,
           std::strerror(errno));
  for (int tries = 50; flock(lock, LOCK_EX | LOCK_NB) != 0; --tries) {
    if (errno != EWOULDBLOCK && errno != EINTR) {
      log_warn("{}: this file system has no locks ({}); see that no other job trains in this run",
               file, std::strerror(errno));
      break;
    }
    if (tries > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      continue;
    }
    close(lock);
    FT_FAIL("run folder {}: another job trains in it; end that one first, or choose another `run`",
            run.string());
  }
  return lock;
}

}  // namespace

Checkpointer::Checkpointer(fs::path run, const CheckpointOptions& options, Communicator& comm)
    : run_(std::move(run)), options_(options), comm_(comm) {
  if (comm_.rank() == 0) lock_ = lock_folder(run_);
  check_shared(run_, comm_);
  if (comm_.rank() == 0)
    for (const auto& item : fs::directory_iterator(run_))
      if (item.path().filename().string().ends_with(".tmp")) fs::remove_all(item.path());
  comm_.barrier();
}

Checkpointer::~Checkpointer() {
  if (writer_.joinable()) writer_.join();
  if (lock_ >= 0) close(lock_);
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

bool Checkpointer::conclude(double written, double failed) {
  if (part_ == Part::kIdle || written + failed < comm_.size()) return true;
  if (writer_.joinable()) writer_.join();
  if (part_ == Part::kFailed)
    log_warn("checkpoint {} not written: {}; training goes on, the previous checkpoint stays",
             name_, problem_);
  part_ = Part::kIdle;
  if (comm_.rank() != 0) return failed == 0;
  if (failed == 0) {
    try {
      complete();
      return true;
    } catch (const std::exception& error) {
      log_warn("checkpoint {} not completed: {}; the previous checkpoint stays", name_,
               error.what());
    }
  }
  std::error_code ignored;
  fs::remove_all(run_ / (name_ + ".tmp"), ignored);
  return false;
}

bool Checkpointer::finish() {
  if (writer_.joinable()) writer_.join();
  const auto sums = at::tensor({written(), failed()}, at::kDouble);
  comm_.all_reduce(sums, ReduceOp::kSum).wait();
  const bool good = conclude(sums[0].item<double>(), sums[1].item<double>());
  // Also the barrier after which what rank 0 renamed is there for everybody.
  const auto bad = at::full({1}, good ? 0 : 1, at::kLong);
  comm_.all_reduce(bad, ReduceOp::kSum).wait();
  return bad.item<int64_t>() == 0;
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
    if (checkpoint_step(item.path()) && is_checkpoint(item.path())) names.push_back(name);
  }
  std::sort(names.rbegin(), names.rend());
  for (size_t i = static_cast<size_t>(options_.keep); i < names.size(); ++i) {
    if (names[i] == best) continue;
    // Renamed first: a kill in the middle of the removal must not leave half a checkpoint under a
    // final name.
    const fs::path doomed = run_ / (names[i] + ".old.tmp");
    fs::rename(run_ / names[i], doomed);
    fs::remove_all(doomed);
  }
}

}  // namespace facetrain
