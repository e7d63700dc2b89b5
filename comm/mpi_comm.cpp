#include "comm/mpi_comm.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>

#include "comm/deadline.h"
#include "comm/host_reduce.h"
#include "comm/mpi_types.h"
#include "core/check.h"

namespace facetrain {
namespace {

constexpr auto kIdlePoll = std::chrono::milliseconds(50);
constexpr auto kAnswerTime = std::chrono::milliseconds(500);
// Up to this many bytes every rank gathers everything and sums for itself: one message instead of
// two.
constexpr int64_t kSmallBytes = 8 << 10;
// Working memory of an ordered sum, per rank.
constexpr int64_t kBlockBytes = 8 << 20;

std::byte* bytes_of(const at::Tensor& tensor) { return static_cast<std::byte*>(tensor.data_ptr()); }

// Ranks may share cores: after a short spin the core is given away, then the thread sleeps for
// moments.
class Pause {
 public:
  void operator()() {
    ++rounds_;
    if (rounds_ < 50) return;
    if (rounds_ < 500) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(rounds_ < 2000 ? 10 : 100));
    }
  }
  // Looking at the clock and for messages costs more than one test of a request.
  bool look_around() const { return rounds_ % 32 == 0 || rounds_ > 2000; }

 private:
  int64_t rounds_ = 0;
};

bool deterministic_requested() {
  const char* value = std::getenv("FACETRAIN_DETERMINISTIC_REDUCE");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

class MpiWork : public Work::State {
 public:
  explicit MpiWork(std::future<void> done) : done_(std::move(done)) {}
  void wait() override { done_.get(); }

 private:
  std::future<void> done_;
};

}  // namespace

// ---- the queue
// ----------------------------------------------------------------------------------------------------------
MpiComm::MpiComm(MPI_Comm world, MpiCommOptions options)
    : options_(options),
      deterministic_(options.deterministic.value_or(deterministic_requested())),
      deadline_(default_deadline()),
      control_(world) {
  FT_CHECK(options_.max_count >= 1 && options_.max_count <= (int64_t{1} << 30),
           "max_count wants 1 to 2^30 elements, found {}", options_.max_count);
  FT_MPI(MPI_Comm_dup(world, &comm_));
  MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN);
  MPI_Comm_rank(comm_, &rank_);
  MPI_Comm_size(comm_, &size_);
  thread_ = std::thread([this] { run(); });
}

MpiComm::~MpiComm() {
  const bool clean = std::uncaught_exceptions() == 0;
  if (!clean) abandoned_ = true;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  queued_.notify_one();
  thread_.join();
  if (!clean) return;
  control_.free();
  MPI_Comm_free(&comm_);
}

Work MpiComm::start(const Call& call) {
  Task task{.call = call, .done = {}};
  auto state = std::make_shared<MpiWork>(task.done.get_future());
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(task));
  }
  queued_.notify_one();
  return Work(std::move(state));
}

void MpiComm::run() {
  for (;;) {
    std::optional<Task> task;
    {
      std::unique_lock lock(mutex_);
      queued_.wait_for(lock, kIdlePoll, [&] { return stop_ || !queue_.empty(); });
      if (queue_.empty() && stop_) return;
      if (!queue_.empty()) {
        task = std::move(queue_.front());
        queue_.pop_front();
      }
    }
    control_.poll();
    if (!task) continue;
    const std::string name = task->call.name();
    control_.set_position("in " + name);
    try {
      execute(task->call);
      task->done.set_value();
    } catch (...) {
      task->done.set_exception(std::current_exception());
    }
    control_.set_position("past " + name);
    if (abandoned_) return;
  }
}

void MpiComm::leave(int exit_code, std::optional<std::string> message) {
  exit_after(std::chrono::milliseconds(4000),
             exit_code);  // should the communication thread hang inside MPI
  control_.request_leave(exit_code, std::move(message));
  queued_.notify_one();
  for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
}

// ---- waiting
// --------------------------------------------------------------------------------------------------------------
void MpiComm::complete(MPI_Request request, const Call& call) {
  const auto start = Clock::now();
  Pause pause;
  for (;;) {
    int done = 0;
    FT_MPI(MPI_Test(&request, &done, MPI_STATUS_IGNORE));
    if (done) return;
    if (pause.look_around()) {
      control_.poll();
      FT_CHECK(!abandoned_, "{} was given up: the communicator is being destroyed", call.name());
      if (deadline_passed(start, deadline_)) give_up(call, seconds_since(start));
      check_silent_ranks(call, seconds_since(start));
    }
    pause();
  }
}

// mpirun answers the death of a rank with SIGTERM to the others and, soon after, SIGKILL: too soon
// for the deadline, so the ranks are asked at once and one that cannot answer is taken for dead.
void MpiComm::check_silent_ranks(const Call& call, double waited) {
  if (asked_after_signal_ || !deadlines_shortened_at()) return;
  asked_after_signal_ = true;
  control_.ask_positions(kAnswerTime);
  if (control_.silent_ranks().empty()) return;
  control_.leave(
      1, fmt::format("[rank {}] {} cannot complete ({:.1f} s so far): {} {} not answer, died or "
                     "lost the network. "
                     "Its own output says why; restart from the last checkpoint with --resume",
                     rank_, call.name(), waited, name_ranks(control_.silent_ranks()),
                     control_.silent_ranks().size() == 1 ? "does" : "do"));
}

void MpiComm::give_up(const Call& call, double waited) {
  const std::string others = control_.ask_positions(kAnswerTime);
  control_.leave(
      1, fmt::format(
             "[rank {}] {} did not complete within {:.1f} s: {}. Look for a rank that hangs, died "
             "or works "
             "longer than this between two collectives; FACETRAIN_DEADLINE_SECONDS sets the limit, "
             "FACETRAIN_COMM_DEBUG=1 finds ranks that make different calls",
             rank_, call.name(), waited,
             others.empty() ? "all ranks are in it, so the network is stuck" : others));
}

// ---- the collectives
// --------------------------------------------------------------------------------------------------------
void MpiComm::execute(const Call& call) {
  switch (call.kind) {
    case Kind::kAllReduce:
      return deterministic_ ? do_all_reduce_ordered(call) : do_all_reduce(call);
    case Kind::kAllGather:
      return do_all_gather(call);
    case Kind::kReduceScatter:
      return do_reduce_scatter(call);
    case Kind::kBroadcast:
      return do_broadcast(call);
    case Kind::kAllToAll:
      return do_all_to_all(call);
    case Kind::kBarrier: {
      MPI_Request request;
      FT_MPI(MPI_Ibarrier(comm_, &request));
      return complete(request, call);
    }
  }
}

void MpiComm::do_all_reduce(const Call& call) {
  const MPI_Datatype type = mpi_type_of(call.in.scalar_type());
  const MPI_Op op = mpi_op_of(call.op);
  const int64_t total = call.in.numel();
  for (int64_t begin = 0; begin < total; begin += options_.max_count) {
    const int64_t count = std::min(options_.max_count, total - begin);
    MPI_Request request;
    FT_MPI(MPI_Iallreduce(MPI_IN_PLACE, bytes_of(call.out) + begin * call.in.element_size(),
                          static_cast<int>(count), type, op, comm_, &request));
    complete(request, call);
  }
}

void MpiComm::do_all_reduce_ordered(const Call& call) {
  const int64_t bytes = call.in.element_size(), total = call.in.numel();
  if (call.in.nbytes() <= kSmallBytes && total <= options_.max_count)
    return reduce_small(bytes_of(call.out), total, call);
  const int64_t part = std::clamp<int64_t>(kBlockBytes / bytes / size_, 1, options_.max_count);
  const int64_t block = part * size_, whole = total / block * block;
  for (int64_t begin = 0; begin < whole; begin += block)
    reduce_block(bytes_of(call.out) + begin * bytes, block, call);
  if (whole == total) return;
  // The rest is made up with zeros to equal parts.
  const int64_t rest = total - whole;
  const at::Tensor last = at::zeros({(rest + size_ - 1) / size_ * size_}, call.in.options());
  std::memcpy(last.data_ptr(), bytes_of(call.in) + whole * bytes, rest * bytes);
  reduce_block(bytes_of(last), last.numel(), call);
  std::memcpy(bytes_of(call.out) + whole * bytes, last.data_ptr(), rest * bytes);
}

// Everybody gathers everything: for few elements, where the number of messages counts.
void MpiComm::reduce_small(std::byte* data, int64_t count, const Call& call) {
  const int64_t bytes = count * call.in.element_size();
  std::vector<std::byte> all(bytes * size_);
  MPI_Request request;
  FT_MPI(MPI_Iallgather(data, static_cast<int>(bytes), MPI_BYTE, all.data(),
                        static_cast<int>(bytes), MPI_BYTE, comm_, &request));
  complete(request, call);
  std::vector<const void*> parts;
  for (int r = 0; r < size_; ++r) parts.push_back(all.data() + r * bytes);
  reduce_in_rank_order(call.in.scalar_type(), call.op, parts, data, count);
}

// Rank r sums the r-th part in rank order, then everybody gathers the parts. `count` is a multiple
// of size().
void MpiComm::reduce_block(std::byte* data, int64_t count, const Call& call) {
  const int64_t part = count / size_ * call.in.element_size();
  const StridedType type(part, part);
  std::vector<std::byte> received(part * size_);
  MPI_Request request;
  FT_MPI(MPI_Ialltoall(data, 1, type.get(), received.data(), 1, type.get(), comm_, &request));
  complete(request, call);
  std::vector<const void*> parts;
  for (int r = 0; r < size_; ++r) parts.push_back(received.data() + r * part);
  reduce_in_rank_order(call.in.scalar_type(), call.op, parts, data + rank_ * part, count / size_);
  FT_MPI(MPI_Iallgather(MPI_IN_PLACE, 0, MPI_DATATYPE_NULL, data, 1, type.get(), comm_, &request));
  complete(request, call);
}

void MpiComm::do_all_gather(const Call& call) {
  const int64_t part = call.in.nbytes();
  for (int64_t begin = 0; begin < part; begin += options_.max_count) {
    const int64_t count = std::min(options_.max_count, part - begin);
    const StridedType type(count, part);
    const bool in_place = bytes_of(call.in) == bytes_of(call.out) + rank_ * part;
    MPI_Request request;
    FT_MPI(MPI_Iallgather(in_place ? MPI_IN_PLACE : bytes_of(call.in) + begin, 1, type.get(),
                          bytes_of(call.out) + begin, 1, type.get(), comm_, &request));
    complete(request, call);
  }
}

// Always in rank order: sending each part to the rank that keeps it is as little traffic as there
// can be.
void MpiComm::do_reduce_scatter(const Call& call) {
  const int64_t bytes = call.in.element_size(), total = call.out.numel();
  const int64_t most = std::clamp<int64_t>(kBlockBytes / bytes / size_, 1, options_.max_count);
  std::vector<std::byte> received(std::min(most, total) * bytes * size_);
  for (int64_t begin = 0; begin < total; begin += most) {
    const int64_t count = std::min(most, total - begin), part = count * bytes;
    const StridedType from(part, total * bytes), to(part, part);
    MPI_Request request;
    FT_MPI(MPI_Ialltoall(bytes_of(call.in) + begin * bytes, 1, from.get(), received.data(), 1,
                         to.get(), comm_, &request));
    complete(request, call);
    std::vector<const void*> parts;
    for (int r = 0; r < size_; ++r) parts.push_back(received.data() + r * part);
    reduce_in_rank_order(call.in.scalar_type(), ReduceOp::kSum, parts,
                         bytes_of(call.out) + begin * bytes, count);
  }
}

void MpiComm::do_broadcast(const Call& call) {
  const int64_t total = call.in.nbytes();
  for (int64_t begin = 0; begin < total; begin += options_.max_count) {
    const int64_t count = std::min(options_.max_count, total - begin);
    MPI_Request request;
    FT_MPI(MPI_Ibcast(bytes_of(call.out) + begin, static_cast<int>(count), MPI_BYTE, call.root,
                      comm_, &request));
    complete(request, call);
  }
}

void MpiComm::do_all_to_all(const Call& call) {
  const int64_t part = call.in.nbytes() / size_;
  for (int64_t begin = 0; begin < part; begin += options_.max_count) {
    const int64_t count = std::min(options_.max_count, part - begin);
    const StridedType type(count, part);
    MPI_Request request;
    FT_MPI(MPI_Ialltoall(bytes_of(call.in) + begin, 1, type.get(), bytes_of(call.out) + begin, 1,
                         type.get(), comm_, &request));
    complete(request, call);
  }
}

}  // namespace facetrain
