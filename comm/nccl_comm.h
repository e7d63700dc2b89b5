// Collectives of device tensors over NCCL, on a stream of their own; host tensors over the
// communicator given.
//
// Part of the CUDA plugin. A Work's wait() makes the current stream wait, never the host; a
// watchdog thread looks at what is in flight and, when the deadline passes or NCCL reports an
// error, names the collective and leaves the job.
#pragma once

#include <ATen/cuda/CUDAEvent.h>
#include <c10/cuda/CUDAStream.h>
#include <nccl.h>

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "comm/communicator.h"
#include "comm/deadline.h"

namespace facetrain {

class NcclComm : public Communicator {
 public:
  // **Collective.** One GPU a rank; `host` brings the ranks together and must outlive this. NCCL's
  // maximum of a NaN and a number is unspecified.
  NcclComm(Communicator& host, int device);
  // **Collective**, except while an exception passes.
  ~NcclComm() override;
  int rank() const override { return host_.rank(); }
  int size() const override { return host_.size(); }
  void set_deadline(std::chrono::milliseconds deadline) override;

 protected:
  Work start(const Call& call) override;
  bool takes(const at::Device&) const override { return true; }

 private:
  class NcclWork;
  struct InFlight {
    std::shared_ptr<at::cuda::CUDAEvent> done;
    std::string name;
    Clock::time_point start;
  };
  Work start_on_host(const Call& call);
  ncclResult_t issue(const Call& call);
  // Polls a non-blocking NCCL call until it has been taken; throws on an error or when the deadline
  // passes.
  void settle(ncclResult_t result, const std::string& what);
  void watch();
  void look(std::deque<InFlight>& flights);

  Communicator& host_;
  const c10::DeviceIndex device_;
  const c10::cuda::CUDAStream stream_;
  std::atomic<std::chrono::milliseconds> deadline_;
  std::mutex nccl_mutex_;  // NCCL calls on one communicator must not overlap
  ncclComm_t comm_ = nullptr;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<InFlight> in_flight_;
  bool stop_ = false;
  std::thread watchdog_;
};

}  // namespace facetrain
