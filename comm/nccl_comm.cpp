#include "comm/nccl_comm.h"

#include <ATen/ATen.h>
#include <c10/cuda/CUDACachingAllocator.h>
#include <c10/cuda/CUDAGuard.h>

#include <cstring>
#include <exception>

#include "comm/world.h"
#include "core/check.h"

namespace facetrain {
namespace {

constexpr auto kLook = std::chrono::milliseconds(100);

ncclDataType_t nccl_type_of(at::ScalarType type) {
  switch (type) {
    case at::kDouble:
      return ncclFloat64;
    case at::kFloat:
      return ncclFloat32;
    case at::kBFloat16:
      return ncclBfloat16;
    case at::kHalf:
      return ncclFloat16;
    case at::kLong:
      return ncclInt64;
    case at::kInt:
      return ncclInt32;
    default:
      return ncclUint8;
  }
}

}  // namespace

class NcclComm::NcclWork : public Work::State {
 public:
  NcclWork(std::shared_ptr<at::cuda::CUDAEvent> done, at::Tensor out, at::Tensor in,
           c10::DeviceIndex device)
      : done_(std::move(done)), out_(std::move(out)), in_(std::move(in)), device_(device) {}
  void wait() override { done_->block(c10::cuda::getCurrentCUDAStream(device_)); }

 private:
  const std::shared_ptr<at::cuda::CUDAEvent> done_;
  const at::Tensor out_,
      in_;  // alive until the Work is waited for or dropped; then record_stream guards their memory
  const c10::DeviceIndex device_;
};

// ---- start and end
// --------------------------------------------------------------------------------------------------------
NcclComm::NcclComm(Communicator& host, int device)
    : host_(host),
      device_(static_cast<c10::DeviceIndex>(device)),
      stream_(c10::cuda::getStreamFromPool(/*isHighPriority=*/true, device_)),
      deadline_(default_deadline()) {
  const c10::cuda::CUDAGuard guard(device_);
  ncclUniqueId id = {};
  if (host_.rank() == 0) {
    FT_CHECK(ncclGetUniqueId(&id) == ncclSuccess, "ncclGetUniqueId failed: {}",
             ncclGetLastError(nullptr));
  }
  const at::Tensor bytes = at::empty({sizeof(id)}, at::kByte);
  std::memcpy(bytes.data_ptr(), &id, sizeof(id));
  host_.broadcast(bytes, 0).wait();
  std::memcpy(&id, bytes.data_ptr(), sizeof(id));
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;  // a blocking call could be stuck for good, beyond any deadline
  settle(ncclCommInitRankConfig(&comm_, host_.size(), id, host_.rank(), &config),
         "the start of NCCL");
  watchdog_ = std::thread([this] {
    try {
      watch();
    } catch (const std::exception& error) {  // of CUDA: the device is lost, and with it the job
      fail_world(1, fmt::format("[rank {}] the device failed: {}", rank(), error.what()));
    }
  });
}

NcclComm::~NcclComm() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_one();
  watchdog_.join();
  if (std::uncaught_exceptions() > 0)
    return;  // the process is about to end; ncclCommDestroy might wait for dead ranks
  ncclCommFinalize(comm_);
  ncclResult_t state = ncclInProgress;
  const auto start = Clock::now();
  while (ncclCommGetAsyncError(comm_, &state) == ncclSuccess && state == ncclInProgress &&
         !deadline_passed(start, deadline_)) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  if (state != ncclInProgress) ncclCommDestroy(comm_);
}

void NcclComm::set_deadline(std::chrono::milliseconds deadline) {
  deadline_ = deadline;
  host_.set_deadline(deadline);
}

void NcclComm::settle(ncclResult_t result, const std::string& what) {
  const auto start = Clock::now();
  while (result == ncclInProgress) {
    FT_CHECK(!deadline_passed(start, deadline_),
             "{} did not complete within {:.1f} s on this rank; look at the other ranks' output "
             "and at NCCL_DEBUG=INFO",
             what, seconds_since(start));
    std::this_thread::yield();
    const ncclResult_t asked = ncclCommGetAsyncError(comm_, &result);
    if (asked != ncclSuccess) result = asked;
  }
  FT_CHECK(result == ncclSuccess, "{} failed: {} ({}). NCCL_DEBUG=INFO says more", what,
           ncclGetErrorString(result), ncclGetLastError(comm_));
}

// ---- the collectives
// --------------------------------------------------------------------------------------------------------
Work NcclComm::start(const Call& call) {
  if (!call.in.defined() || call.in.device().is_cpu()) return start_on_host(call);
  FT_CHECK(call.in.device() == c10::Device(c10::kCUDA, device_),
           "this rank's device is cuda:{}, but {} got a tensor on {}", static_cast<int>(device_),
           call.name(), call.in.device().str());
  const c10::cuda::CUDAGuard guard(device_);
  at::cuda::CUDAEvent ready;
  ready.record(c10::cuda::getCurrentCUDAStream(device_));
  ready.block(stream_);
  {
    const std::lock_guard lock(nccl_mutex_);
    settle(issue(call), call.name());
  }
  const auto done = std::make_shared<at::cuda::CUDAEvent>();
  done->record(stream_);
  for (const at::Tensor& tensor : {call.out, call.in}) {
    c10::cuda::CUDACachingAllocator::recordStream(tensor.storage().data_ptr(), stream_);
  }
  {
    const std::lock_guard lock(mutex_);
    in_flight_.push_back({.done = done, .name = call.name(), .start = Clock::now()});
  }
  changed_.notify_one();
  return Work(std::make_shared<NcclWork>(done, call.out, call.in, device_));
}

Work NcclComm::start_on_host(const Call& call) {
  switch (call.kind) {
    case Kind::kAllReduce:
      return host_.all_reduce(call.out, call.op, call.place);
    case Kind::kAllGather:
      return host_.all_gather(call.out, call.in, call.place);
    case Kind::kReduceScatter:
      return host_.reduce_scatter(call.out, call.in, call.place);
    case Kind::kBroadcast:
      return host_.broadcast(call.out, call.root, call.place);
    case Kind::kAllToAll:
      return host_.all_to_all(call.out, call.in, call.place);
    case Kind::kBarrier:
      host_.barrier(call.place);
      return Work();
  }
  FT_FAIL("unknown collective");
}

// Data that only moves is moved as bytes, of any type.
ncclResult_t NcclComm::issue(const Call& call) {
  const void* in = call.in.data_ptr();
  void* out = call.out.data_ptr();
  const ncclDataType_t type = nccl_type_of(call.in.scalar_type());
  switch (call.kind) {
    case Kind::kAllReduce:
      return ncclAllReduce(in, out, call.in.numel(), type,
                           call.op == ReduceOp::kSum ? ncclSum : ncclMax, comm_, stream_.stream());
    case Kind::kAllGather:
      return ncclAllGather(in, out, call.in.nbytes(), ncclUint8, comm_, stream_.stream());
    case Kind::kReduceScatter:
      return ncclReduceScatter(in, out, call.out.numel(), type, ncclSum, comm_, stream_.stream());
    case Kind::kBroadcast:
      return ncclBroadcast(in, out, call.in.nbytes(), ncclUint8, call.root, comm_,
                           stream_.stream());
    case Kind::kAllToAll:
      return ncclAlltoAll(in, out, call.in.nbytes() / size(), ncclUint8, comm_, stream_.stream());
    case Kind::kBarrier:
      break;
  }
  return ncclInvalidUsage;
}

// ---- the watchdog
// -----------------------------------------------------------------------------------------------------------
void NcclComm::watch() {
  const c10::cuda::CUDAGuard guard(device_);
  std::deque<InFlight> flights;
  for (;;) {
    {
      std::unique_lock lock(mutex_);
      const auto something = [&] { return stop_ || !in_flight_.empty(); };
      if (flights.empty()) {
        changed_.wait(lock, something);
      } else {
        changed_.wait_for(lock, kLook, [&] { return stop_; });
      }
      if (stop_) return;
      flights.insert(flights.end(), in_flight_.begin(), in_flight_.end());
      in_flight_.clear();
    }
    look(flights);
  }
}

void NcclComm::look(std::deque<InFlight>& flights) {
  while (!flights.empty() && flights.front().done->query()) flights.pop_front();
  if (flights.empty()) return;
  ncclResult_t state = ncclSuccess;
  {
    const std::lock_guard lock(nccl_mutex_);
    ncclCommGetAsyncError(comm_, &state);
  }
  const InFlight& first = flights.front();
  if (state != ncclSuccess && state != ncclInProgress) {
    fail_world(1, fmt::format("[rank {}] {} failed: {}. NCCL_DEBUG=INFO says more", rank(),
                              first.name, ncclGetErrorString(state)));
  }
  if (deadline_passed(first.start, deadline_)) {
    fail_world(1, fmt::format("[rank {}] {} did not complete on the device within {:.1f} s. Look "
                              "for a rank that hangs or died; "
                              "FACETRAIN_DEADLINE_SECONDS sets the limit, FACETRAIN_COMM_DEBUG=1 "
                              "finds ranks that make "
                              "different calls",
                              rank(), first.name, seconds_since(first.start)));
  }
}

}  // namespace facetrain
