// Collectives on tensors: MPI, NCCL and in-process threads behind one interface.
//
// Every rank must call the same methods in the same order, from one thread at a time. Counts and
// types come from the tensors, which must be contiguous and stay alive until the Work is waited
// for. The tensor's device picks the wire.
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <functional>
#include <memory>
#include <source_location>
#include <string>
#include <vector>

namespace facetrain {

enum class ReduceOp { kSum, kMax };

// A collective in flight. After wait() the result may be used by work that this thread issues next:
// for host tensors the host blocks, for device tensors only the current stream waits. The
// destructor waits too, except while an exception passes: then the collective may never end, and
// the communicator keeps the tensors alive instead.
class [[nodiscard]] Work {
 public:
  class State {
   public:
    virtual ~State() = default;
    virtual void wait() = 0;  // throws if the collective failed
  };
  Work() = default;  // complete
  explicit Work(std::shared_ptr<State> state) : state_(std::move(state)) {}
  Work(Work&&) noexcept = default;
  Work& operator=(Work&& other);
  ~Work() noexcept(false);
  void wait();

 private:
  std::shared_ptr<State> state_;
};

using Place = std::source_location;

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // **Collective**, all of them. `place` is the call site, for debug fingerprints and deadline
  // messages. In place. fp64, fp32, bf16, fp16, int64, int32, uint8; the other collectives move any
  // type.
  Work all_reduce(const at::Tensor& tensor, ReduceOp op, Place place = Place::current());
  // `out` has size() * in.numel() elements, in rank order.
  Work all_gather(const at::Tensor& out, const at::Tensor& in, Place place = Place::current());
  // Sums; `in` has size() * out.numel() elements, of which rank r keeps the r-th part.
  Work reduce_scatter(const at::Tensor& out, const at::Tensor& in, Place place = Place::current());
  Work broadcast(const at::Tensor& tensor, int root, Place place = Place::current());
  // Part r of `in` goes to rank r; equal parts; `out` and `in` do not overlap.
  Work all_to_all(const at::Tensor& out, const at::Tensor& in, Place place = Place::current());
  void barrier(Place place = Place::current());

  // How long any wait may last before the process names the collective and leaves (default 30 min,
  // or FACETRAIN_DEADLINE_SECONDS). May be shortened at any time from any thread.
  virtual void set_deadline(std::chrono::milliseconds deadline) = 0;

 protected:
  enum class Kind { kAllReduce, kAllGather, kReduceScatter, kBroadcast, kAllToAll, kBarrier };
  struct Call {
    Kind kind;
    at::Tensor out, in;  // the same tensor for in-place calls
    ReduceOp op = ReduceOp::kSum;
    int root = 0;
    uint64_t sequence = 0;  // number of the collective on this communicator
    Place place;
    std::string name() const;  // "all_reduce #12 of 4096 Float at comm/grad_reducer.cpp:88"
    // The same without the number: what must be equal on all ranks.
    std::string signature() const;
  };
  // Starts one collective; arguments are already checked. Calls arrive in order.
  virtual Work start(const Call& call) = 0;
  // Whether start() takes tensors of this device as they are; else they are staged through host
  // memory.
  virtual bool takes(const at::Device& device) const { return device.is_cpu(); }

 private:
  Work submit(Call call);
  Work start_staged(const Call& call);
  void compare_fingerprints(const Call& call);  // FACETRAIN_COMM_DEBUG=1
  uint64_t sequence_ = 0;
  const bool comparing_ = compare_requested();
  static bool compare_requested();
};

// "ranks 0, 2 and 3"; "rank 1".
std::string name_ranks(const std::vector<int>& ranks);

}  // namespace facetrain
