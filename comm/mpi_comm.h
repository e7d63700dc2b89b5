// Collectives of processes over MPI: one communication thread with one queue makes every MPI call.
//
// The caller gets a Work at once. Calls are made in the order given, non-blocking, and polled with
// a deadline; on expiry the process names the collective and what the other ranks are doing, and
// leaves. Device tensors go through the host.
#pragma once

#include <mpi.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <future>
#include <mutex>
#include <optional>
#include <thread>

#include "comm/communicator.h"
#include "comm/mpi_control.h"

namespace facetrain {

struct MpiCommOptions {
  int64_t max_count =
      int64_t{1} << 30;  // elements (bytes, where data only moves) of one MPI call and rank
  // Sums in rank order: the same bits as ThreadComm's. Default: FACETRAIN_DETERMINISTIC_REDUCE=1.
  std::optional<bool> deterministic = std::nullopt;
  bool stage_host_tensors = false;  // for tests of the staged path without a device
};

class MpiComm : public Communicator {
 public:
  // **Collective** over `world`, which is duplicated; MPI must grant MPI_THREAD_MULTIPLE.
  explicit MpiComm(MPI_Comm world, MpiCommOptions options = {});
  // **Collective**; not while an exception passes: then MPI's side is left as it is.
  ~MpiComm() override;
  int rank() const override { return rank_; }
  int size() const override { return size_; }
  void set_deadline(std::chrono::milliseconds deadline) override { deadline_ = deadline; }

  // Leaves the job from any thread (MpiControl::leave). Never returns.
  [[noreturn]] void leave(int exit_code, std::optional<std::string> message);

 protected:
  Work start(const Call& call) override;
  bool takes(const at::Device& device) const override {
    return device.is_cpu() && !options_.stage_host_tensors;
  }

 private:
  struct Task {
    Call call;
    std::promise<void> done;
  };
  void run();
  void execute(const Call& call);
  void do_all_reduce(const Call& call);
  void do_all_reduce_ordered(const Call& call);
  void reduce_block(std::byte* data, int64_t count, const Call& call);
  void reduce_small(std::byte* data, int64_t count, const Call& call);
  void do_all_gather(const Call& call);
  void do_reduce_scatter(const Call& call);
  void do_broadcast(const Call& call);
  void do_all_to_all(const Call& call);

  // Polls until the request is complete; leaves the process when the deadline passes.
  void complete(MPI_Request request, const Call& call);
  void check_silent_ranks(const Call& call, double waited);
  [[noreturn]] void give_up(const Call& call, double waited);

  const MpiCommOptions options_;
  const bool deterministic_;
  MPI_Comm comm_ = MPI_COMM_NULL;
  int rank_ = 0, size_ = 1;
  std::atomic<std::chrono::milliseconds> deadline_;
  MpiControl control_;
  bool asked_after_signal_ = false;

  std::mutex mutex_;
  std::condition_variable queued_;
  std::deque<Task> queue_;
  bool stop_ = false;
  std::atomic<bool> abandoned_{false};
  std::thread thread_;
};

}  // namespace facetrain
