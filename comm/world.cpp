#include "comm/world.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <mpi.h>
#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <sstream>
#include <thread>

#include "comm/build_id.h"
#include "comm/collectives.h"
#include "comm/exit.h"
#include "comm/mpi_comm.h"
#include "comm/plugin_loader.h"
#include "comm/thread_comm.h"
#include "core/check.h"
#include "core/log.h"

namespace facetrain {
namespace {

bool launched_by_mpirun() {
  return std::getenv("OMPI_COMM_WORLD_SIZE") != nullptr || std::getenv("PMIX_RANK") != nullptr;
}

// Open MPI's, from "Open MPI v4.1.4, package: ..."
std::string mpi_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int length = 0;
  MPI_Get_library_version(text, &length);
  std::string version(text, length);
  version = version.substr(0, version.find(','));
  if (const auto v = version.find(" v"); v != std::string::npos) version.erase(v + 1, 1);
  return version;
}

int cores_of_affinity_mask() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof(mask), &mask) != 0)
    return static_cast<int>(std::thread::hardware_concurrency());
  return CPU_COUNT(&mask);
}

// Every rank's text, in rank order. **Collective.**
std::vector<std::string> gather_texts(const std::string& text, Communicator& comm) {
  const std::vector<int64_t> lengths = gather_counts(std::ssize(text), comm);
  at::Tensor mine = at::empty({std::ssize(text)}, at::kByte);
  std::copy(text.begin(), text.end(), mine.mutable_data_ptr<uint8_t>());
  const at::Tensor all = gather_rows_detached(mine, lengths, comm);
  std::vector<std::string> texts;
  const char* begin = static_cast<const char*>(all.data_ptr());
  for (const int64_t length : lengths) {
    texts.emplace_back(begin, length);
    begin += length;
  }
  return texts;
}

bool share_gpu(const char** how) {
  *how = std::getenv("FACETRAIN_SHARE_GPU");
  return *how != nullptr && **how != '\0' && std::strcmp(*how, "0") != 0;
}

}  // namespace

struct World::Parts {
  std::unique_ptr<MpiComm> mpi;         // when launched by mpirun
  std::shared_ptr<Communicator> alone;  // else
  std::unique_ptr<Communicator> nccl;   // device tensors, over one of the above
  c10::Device device = c10::kCPU;
  std::string device_name = "cpu";
  int local_rank = 0, local_size = 1, hosts = 1;
  int threads = 1, fewest_threads = 1, most_threads = 1;

  Communicator& host() { return mpi ? static_cast<Communicator&>(*mpi) : *alone; }
  void start_mpi();
  void find_neighbours();
  void set_threads(int wanted);
  void set_device(const std::string& wanted);
  void refuse_shared_gpus(const CudaPlugin& cuda, bool allowed);
};

// ---- start
// --------------------------------------------------------------------------------------------------------------
void World::Parts::start_mpi() {
  int granted = 0;
  FT_CHECK(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &granted) == MPI_SUCCESS,
           "MPI_Init_thread failed");
  int rank = 0, size = 1;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  set_log_rank(rank, size);
  FT_CHECK(granted == MPI_THREAD_MULTIPLE,
           "this MPI ({}) does not grant MPI_THREAD_MULTIPLE; use Open MPI 4.1 or newer",
           mpi_version());
  mpi = std::make_unique<MpiComm>(MPI_COMM_WORLD);
  set_exit_comm(mpi.get());
}

void World::Parts::find_neighbours() {
  MPI_Comm neighbours;
  FT_CHECK(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL,
                               &neighbours) == MPI_SUCCESS,
           "MPI_Comm_split_type failed");
  MPI_Comm_rank(neighbours, &local_rank);
  MPI_Comm_size(neighbours, &local_size);
  MPI_Comm_free(&neighbours);
  const auto local_ranks = gather_counts(local_rank, *mpi);
  hosts = static_cast<int>(std::ranges::count(local_ranks, 0));
}

void World::Parts::set_threads(int wanted) {
  FT_CHECK(wanted >= 0, "threads wants 0 (automatic) or more, found {}", wanted);
  threads = wanted > 0 ? wanted : std::max(1, cores_of_affinity_mask() / local_size);
  at::set_num_threads(threads);
  // Nothing of ours forks work between operators; the pool may be set only once in a process.
  static const bool once = (at::set_num_interop_threads(1), true);
  (void)once;
  const auto all = gather_counts(threads, host());
  fewest_threads = static_cast<int>(std::ranges::min(all));
  most_threads = static_cast<int>(std::ranges::max(all));
}

// NCCL 2.28 cannot hold two ranks on one GPU; found by the GPU's identity, because ranks may number
// GPUs differently.
void World::Parts::refuse_shared_gpus(const CudaPlugin& cuda, bool allowed) {
  const auto identities = gather_texts(cuda.device_identity(device.index()), host());
  std::map<std::string, std::vector<int>> ranks_of;
  for (size_t r = 0; r < identities.size(); ++r)
    ranks_of[identities[r]].push_back(static_cast<int>(r));
  for (const auto& [identity, ranks] : ranks_of) {
    FT_CHECK(ranks.size() == 1 || allowed,
             "device: cuda wants one GPU a rank, but {} share GPU {}. Start fewer ranks a host, or "
             "set FACETRAIN_SHARE_GPU=1 "
             "to share it with slow reductions through host memory (for tests)",
             name_ranks(ranks), identity);
  }
}

void World::Parts::set_device(const std::string& wanted) {
  if (wanted == "cpu") return;
  FT_CHECK(wanted == "cuda" || wanted.starts_with("cuda:"),
           "device wants 'cpu', 'cuda' or 'cuda:N', found '{}'", wanted);
  const CudaPlugin& cuda = cuda_plugin();
  std::string reason;
  const int count = cuda.device_count(reason);
  const char* how = nullptr;
  const bool share = share_gpu(&how);
  int index = local_rank;
  if (wanted != "cuda") {
    char* end = nullptr;
    index = static_cast<int>(std::strtol(wanted.c_str() + 5, &end, 10));
    FT_CHECK(wanted.size() > 5 && *end == '\0' && index >= 0,
             "device wants 'cpu', 'cuda' or 'cuda:N', found '{}'", wanted);
  } else if (share) {
    index = local_rank % count;
  }
  FT_CHECK(index < count,
           "{} wants GPU {} on this host (local rank {} of {}), but it has {}. Start at most {} "
           "ranks a host, or "
           "set FACETRAIN_SHARE_GPU=1 to share GPUs (for tests)",
           wanted == "cuda" ? "device: cuda" : wanted, index, local_rank, local_size, count, count);
  device = c10::Device(c10::kCUDA, static_cast<c10::DeviceIndex>(index));
  cuda.set_device(index);
  device_name = cuda.describe_device(index);
  refuse_shared_gpus(cuda, share);
  const char* ordered = std::getenv("FACETRAIN_DETERMINISTIC_REDUCE");
  const bool through_host = host().size() == 1 || (share && std::strcmp(how, "nccl") != 0) ||
                            (ordered != nullptr && std::strcmp(ordered, "1") == 0);
  if (through_host) return;
  if (share) {
    // NCCL tells hosts apart by this name; ranks of one GPU must look like hosts of their own.
    // Untested territory.
    setenv("NCCL_HOSTID", fmt::format("facetrain-{}", host().rank()).c_str(), 1);
  }
  nccl = cuda.make_nccl_comm(host(), index);
}

World::World() : parts_(std::make_unique<Parts>()) {}

std::unique_ptr<World> World::create(const WorldOptions& options) {
  std::unique_ptr<World> world(new World());
  Parts& parts = *world->parts_;
  if (launched_by_mpirun()) {
    parts.start_mpi();
    check_same_on_all_ranks(*parts.mpi, "the build of facetrain", build_id());
    parts.find_neighbours();
  } else {
    parts.alone = make_thread_comms(1)[0];
    set_log_rank(0, 1);
  }
  parts.set_threads(options.threads);
  parts.set_device(options.device);
  return world;
}

// ---- end
// ------------------------------------------------------------------------------------------------------------------
World::~World() {
  if (std::uncaught_exceptions() > 0) {
    // The communication thread must live on: fail_world will need it.
    static_cast<void>(parts_.release());
    return;
  }
  if (!parts_->mpi) return;
  parts_->mpi->barrier();
  parts_->nccl.reset();
  set_exit_comm(nullptr);
  parts_->mpi.reset();
  MPI_Finalize();
}

Communicator& World::comm() { return parts_->nccl ? *parts_->nccl : parts_->host(); }
c10::Device World::device() const { return parts_->device; }
int World::local_rank() const { return parts_->local_rank; }
int World::local_size() const { return parts_->local_size; }
int World::threads() const { return parts_->threads; }

std::string World::describe() const {
  const int size = parts_->host().size();
  const auto plural = [](int n, const char* what) {
    return fmt::format("{} {}{}", n, what, n == 1 ? "" : "s");
  };
  std::string text = plural(size, "rank");
  if (parts_->hosts > 1) text += fmt::format(" on {} hosts", parts_->hosts);
  text +=
      ", " + (parts_->fewest_threads == parts_->most_threads
                  ? plural(parts_->threads, "thread")
                  : fmt::format("{} to {} threads", parts_->fewest_threads, parts_->most_threads));
  if (size > 1) text += " each";
  if (parts_->mpi) text += fmt::format(", MPI ({})", mpi_version());
  if (parts_->nccl) text += " and NCCL";
  return text + ", " + parts_->device_name;
}

// ---- agreement
// --------------------------------------------------------------------------------------------------------------
namespace {

// The first line that is not the same in all texts (a whole configuration is too long for a
// message), one per text.
std::vector<std::string> first_differing_lines(const std::vector<std::string>& texts) {
  std::vector<std::istringstream> streams;
  for (const std::string& text : texts) streams.emplace_back(text);
  for (;;) {
    std::vector<std::string> lines(texts.size());
    bool more = false;
    for (size_t i = 0; i < texts.size(); ++i)
      more |= static_cast<bool>(std::getline(streams[i], lines[i]));
    if (!more || std::ranges::any_of(lines, [&](const auto& line) { return line != lines[0]; }))
      return lines;
  }
}

}  // namespace

void check_same_on_all_ranks(Communicator& comm, const std::string& what,
                             const std::string& value) {
  const std::vector<std::string> lines = first_differing_lines(gather_texts(value, comm));
  std::map<std::string, std::vector<int>> ranks_of;
  for (size_t r = 0; r < lines.size(); ++r) ranks_of[lines[r]].push_back(static_cast<int>(r));
  if (ranks_of.size() == 1) return;
  std::string found;
  for (const auto& [line, ranks] : ranks_of) {
    found += fmt::format("{}'{}' on {}", found.empty() ? "" : ", ", line, name_ranks(ranks));
  }
  FT_FAIL(
      "{} wants to be the same on all ranks, found {}. Start all ranks from the same files with "
      "the same arguments",
      what, found);
}

}  // namespace facetrain
