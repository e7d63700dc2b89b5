// What a checkpoint costs: how long training stands still (the snapshot), how fast the writer is
// against plain writes of the same bytes with the same fsync, and how long a restore takes at the
// same and at another world size.
//
//   build/release/bench/bench_checkpoint [--megabytes 512] [--ranks 2] [--folder /tmp]
#include <fcntl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>

#include "comm/collectives.h"
#include "comm/thread_comm.h"
#include "core/torch.h"
#include "trainer/checkpointer.h"

namespace facetrain {
namespace {
namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A quarter of the bytes replicated with its momentum, the rest class rows with theirs.
CheckpointTensors make_tensors(int64_t megabytes, int rank, int size) {
  const int64_t floats = megabytes * (1 << 20) / 4;
  const int64_t replicated = floats / 8, rows = floats * 3 / 8 / 512;
  const Slice slice = slice_of(rows, rank, size);
  CheckpointTensors tensors;
  tensors.model = {{"backbone.weight", torch::full({replicated}, 1.5f)}};
  tensors.optimizer = {{"backbone.weight.momentum", torch::full({replicated}, 2.5f)}};
  tensors.rows = {
      {"classifier.weight", torch::full({slice.size(), 512}, 3.5f), slice.begin, slice.end, rows},
      {"classifier.weight.momentum", torch::full({slice.size(), 512}, 4.5f), slice.begin, slice.end,
       rows}};
  return tensors;
}

// The same number of bytes from memory into one file, fsynced: what the disk gives.
double plain_write(const fs::path& file, int64_t megabytes) {
  const std::vector<char> block(8 << 20, 'x');
  const auto start = Clock::now();
  const int descriptor = open(file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  FT_CHECK(descriptor >= 0, "{}: {}", file.string(), std::strerror(errno));
  for (int64_t written = 0; written < megabytes; written += 8)
    FT_CHECK(write(descriptor, block.data(), block.size()) == static_cast<ssize_t>(block.size()),
             "{}: short write", file.string());
  fsync(descriptor);
  close(descriptor);
  const double seconds = seconds_since(start);
  fs::remove(file);
  return seconds;
}

struct Times {
  double snapshot, written;
};
Times save_once(const fs::path& run, int64_t megabytes, int ranks, int64_t step) {
  Times times{};
  run_thread_ranks(ranks, [&](Communicator& comm) {
    CheckpointOptions options;
    options.keep = 1;
    Checkpointer checkpointer(run, options, comm);
    const auto tensors = make_tensors(megabytes, comm.rank(), ranks);
    CheckpointMeta meta;
    meta.state.step = step;
    meta.config = "run: bench\n";
    comm.barrier();
    const auto start = Clock::now();
    checkpointer.save(meta, tensors, false);
    comm.barrier();
    if (comm.rank() == 0) times.snapshot = seconds_since(start);
    FT_CHECK(checkpointer.finish(), "the checkpoint was not written");
    if (comm.rank() == 0) times.written = seconds_since(start);
  });
  return times;
}

double restore_once(const fs::path& run, int64_t megabytes, int ranks) {
  double seconds = 0;
  const auto checkpoint = *newest_checkpoint(run);
  run_thread_ranks(ranks, [&](Communicator& comm) {
    const auto tensors = make_tensors(megabytes, comm.rank(), ranks);
    comm.barrier();
    const auto start = Clock::now();
    read_checkpoint(checkpoint, tensors);
    comm.barrier();
    if (comm.rank() == 0) seconds = seconds_since(start);
  });
  return seconds;
}

void bench(int64_t megabytes, int ranks, const fs::path& parent) {
  const fs::path run = parent / fmt::format("facetrain-bench-{}", getpid());
  fs::create_directories(run);
  std::vector<double> snapshot, written, plain, same, other;
  for (int64_t round = 0; round < 5; ++round) {  // alternating, so that a busy disk meets both
    plain.push_back(plain_write(run / "plain", megabytes));
    const Times times = save_once(run, megabytes, ranks, round + 1);
    snapshot.push_back(times.snapshot);
    written.push_back(times.written);
    same.push_back(restore_once(run, megabytes, ranks));
    other.push_back(restore_once(run, megabytes, ranks + 1));
  }
  fs::remove_all(run);
  const auto line = [&](const char* what, double seconds) {
    fmt::print("{:<44} {:8.3f} s {:8.0f} MB/s {:8.2f} x plain\n", what, seconds,
               static_cast<double>(megabytes) / seconds, median(plain) / seconds);
  };
  fmt::print("{} MB, {} thread ranks, median of 5\n", megabytes, ranks);
  line("plain write and fsync of the same bytes", median(plain));
  line("save: training stands still (snapshot)", median(snapshot));
  line("save: until complete, renamed", median(written));
  line("restore, same world size", median(same));
  line("restore, one rank more", median(other));
}

}  // namespace
}  // namespace facetrain

int main(int argc, char** argv) {
  int64_t megabytes = 512;
  int ranks = 2;
  std::string folder = std::filesystem::temp_directory_path();
  CLI::App app("What a checkpoint costs: snapshot, write and restore");
  app.add_option("--megabytes", megabytes, "of tensors")->check(CLI::PositiveNumber);
  app.add_option("--ranks", ranks, "that write, as threads")->check(CLI::Range(1, 64));
  app.add_option("--folder", folder, "where to write")->check(CLI::ExistingDirectory);
  CLI11_PARSE(app, argc, argv);
  try {
    facetrain::bench(megabytes, ranks, folder);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
