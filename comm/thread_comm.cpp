#include "comm/thread_comm.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <exception>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

#include "comm/deadline.h"
#include "comm/host_reduce.h"
#include "core/check.h"
#include "core/log.h"

namespace facetrain {
namespace {

// The other ranks' way out when one has failed: told apart from failures of their own.
class Released : public Error {
 public:
  using Error::Error;
};

constexpr auto kLookAgain =
    std::chrono::milliseconds(100);  // deadlines may be shortened during a wait

class ThreadComm : public Communicator {
 public:
  class Hub;
  ThreadComm(std::shared_ptr<Hub> hub, int rank)
      : hub_(std::move(hub)), rank_(rank), deadline_(default_deadline()) {}
  int rank() const override { return rank_; }
  int size() const override;
  void set_deadline(std::chrono::milliseconds deadline) override { deadline_ = deadline; }

 protected:
  Work start(const Call& call) override;
  // One rank copies from itself to itself, which ATen does on any device.
  bool takes(const at::Device& device) const override { return size() == 1 || device.is_cpu(); }

 private:
  struct Slot;
  class SlotWork;
  const std::shared_ptr<Hub> hub_;
  const int rank_;
  uint64_t ticket_ = 0;
  std::atomic<std::chrono::milliseconds> deadline_;
};

// One collective on its way: the last rank to arrive executes it.
struct ThreadComm::Slot {
  std::vector<Call> calls;
  int arrived = 0;
  bool done = false;
  std::exception_ptr error;

  void execute();

 private:
  void check_agreement() const;
  void all_reduce();
  void all_gather();
  void reduce_scatter();
  void broadcast();
  void all_to_all();
};

class ThreadComm::Hub {
 public:
  explicit Hub(int size) : size(size), posted(size, 0), left(size, false) {}
  std::shared_ptr<Slot> post(uint64_t ticket, int rank, const Call& call);
  void wait(const ThreadComm& comm, Slot& slot, uint64_t ticket, const std::string& name);
  void leave(int rank);
  void release(int rank, const std::string& reason);

  const int size;

 private:
  void check_released() const {
    if (failed_rank >= 0)
      throw Released(FT_FILE, __LINE__,
                     fmt::format("released: rank {} failed: {}", failed_rank, reason));
  }
  std::vector<int> missing(const Slot& slot, uint64_t ticket) const;

  std::mutex mutex;
  std::condition_variable changed;
  std::map<uint64_t, std::shared_ptr<Slot>> open;
  std::vector<uint64_t> posted;  // collectives that a rank has posted
  std::vector<bool> left;        // ranks that will post no more
  int failed_rank = -1;
  std::string reason;
};

class ThreadComm::SlotWork : public Work::State {
 public:
  SlotWork(ThreadComm& comm, std::shared_ptr<Hub> hub, std::shared_ptr<Slot> slot, uint64_t ticket,
           std::string name)
      : comm_(comm),
        hub_(std::move(hub)),
        slot_(std::move(slot)),
        ticket_(ticket),
        name_(std::move(name)) {}
  void wait() override { hub_->wait(comm_, *slot_, ticket_, name_); }

 private:
  ThreadComm& comm_;
  const std::shared_ptr<Hub> hub_;
  const std::shared_ptr<Slot> slot_;
  const uint64_t ticket_;
  const std::string name_;
};

int ThreadComm::size() const { return hub_->size; }

Work ThreadComm::start(const Call& call) {
  const uint64_t ticket = ticket_++;
  auto slot = hub_->post(ticket, rank_, call);
  return Work(std::make_shared<SlotWork>(*this, hub_, std::move(slot), ticket, call.name()));
}

// ---- the meeting
// ------------------------------------------------------------------------------------------------------
std::shared_ptr<ThreadComm::Slot> ThreadComm::Hub::post(uint64_t ticket, int rank,
                                                        const Call& call) {
  std::shared_ptr<Slot> slot;
  {
    const std::lock_guard lock(mutex);
    check_released();
    auto& entry = open[ticket];
    if (!entry) {
      entry = std::make_shared<Slot>();
      entry->calls.resize(size);
    }
    slot = entry;
    slot->calls[rank] = call;
    posted[rank] = ticket + 1;
    if (++slot->arrived < size) return slot;
    open.erase(ticket);
  }
  // All other ranks have posted this one and, until they wait, may only post later ones, which need
  // this rank: so collectives execute one after the other, and nobody touches this one's tensors.
  std::exception_ptr error;
  try {
    slot->execute();
  } catch (...) {
    error = std::current_exception();
  }
  slot->calls.clear();
  const std::lock_guard lock(mutex);
  slot->error = error;
  slot->done = true;
  changed.notify_all();
  return slot;
}

std::vector<int> ThreadComm::Hub::missing(const Slot& slot, uint64_t ticket) const {
  std::vector<int> ranks;
  for (int r = 0; !slot.done && r < size; ++r) {
    if (posted[r] <= ticket) ranks.push_back(r);
  }
  return ranks;
}

void ThreadComm::Hub::wait(const ThreadComm& comm, Slot& slot, uint64_t ticket,
                           const std::string& name) {
  const auto start = Clock::now();
  std::unique_lock lock(mutex);
  while (!slot.done) {
    check_released();
    const std::vector<int> late = missing(slot, ticket);
    for (const int r : late) {
      FT_CHECK(!left[r], "{} can never complete: rank {} has ended without calling it", name, r);
    }
    FT_CHECK(!deadline_passed(start, comm.deadline_),
             "{} did not complete within {:.3g} s: {} did not call it", name, seconds_since(start),
             name_ranks(late));
    changed.wait_until(lock, start +
                                 std::min<Clock::duration>(comm.deadline_.load(),
                                                           Clock::now() - start + kLookAgain) +
                                 std::chrono::milliseconds(1));
  }
  if (slot.error) std::rethrow_exception(slot.error);
}

void ThreadComm::Hub::leave(int rank) {
  const std::lock_guard lock(mutex);
  left[rank] = true;
  changed.notify_all();
}

void ThreadComm::Hub::release(int rank, const std::string& why) {
  const std::lock_guard lock(mutex);
  if (failed_rank < 0) {
    failed_rank = rank;
    reason = why;
  }
  changed.notify_all();
}

// ---- the collectives, in rank order
// -------------------------------------------------------------------------------------
void ThreadComm::Slot::check_agreement() const {
  const Call& first = calls[0];
  for (size_t r = 1; r < calls.size(); ++r) {
    const Call& call = calls[r];
    const bool same = call.kind == first.kind && call.op == first.op && call.root == first.root &&
                      (!call.in.defined() || (call.in.numel() == first.in.numel() &&
                                              call.in.scalar_type() == first.in.scalar_type()));
    FT_CHECK(same, "ranks disagree about a collective: rank {} calls {}, rank 0 calls {}", r,
             call.name(), first.name());
  }
}

void ThreadComm::Slot::execute() {
  check_agreement();
  if (calls.size() == 1) {
    const Call& call = calls[0];
    const at::NoGradGuard no_grad;
    if (call.in.defined() && !call.out.is_same(call.in))
      call.out.detach().view(-1).copy_(call.in.detach().view(-1));
    return;
  }
  switch (calls[0].kind) {
    case Kind::kAllReduce:
      return all_reduce();
    case Kind::kAllGather:
      return all_gather();
    case Kind::kReduceScatter:
      return reduce_scatter();
    case Kind::kBroadcast:
      return broadcast();
    case Kind::kAllToAll:
      return all_to_all();
    case Kind::kBarrier:
      return;
  }
}

namespace {
std::byte* bytes_of(const at::Tensor& tensor) { return static_cast<std::byte*>(tensor.data_ptr()); }
// Places may overlap; those of empty tensors are null.
void copy_bytes(const std::byte* from, size_t count, std::byte* to) {
  if (count > 0) std::memmove(to, from, count);
}
}  // namespace

void ThreadComm::Slot::all_reduce() {
  std::vector<const void*> parts;
  for (const Call& call : calls) parts.push_back(call.in.data_ptr());
  reduce_in_rank_order(calls[0].in.scalar_type(), calls[0].op, parts, calls[0].out.data_ptr(),
                       calls[0].in.numel());
  for (size_t r = 1; r < calls.size(); ++r)
    copy_bytes(bytes_of(calls[0].out), calls[0].in.nbytes(), bytes_of(calls[r].out));
}

void ThreadComm::Slot::all_gather() {
  const size_t part = calls[0].in.nbytes();
  for (const Call& to : calls) {
    for (size_t r = 0; r < calls.size(); ++r)
      copy_bytes(bytes_of(calls[r].in), part, bytes_of(to.out) + r * part);
  }
}

void ThreadComm::Slot::reduce_scatter() {
  const size_t part = calls[0].out.nbytes();
  for (size_t r = 0; r < calls.size(); ++r) {
    std::vector<const void*> parts;
    for (const Call& call : calls) parts.push_back(bytes_of(call.in) + r * part);
    reduce_in_rank_order(calls[0].in.scalar_type(), ReduceOp::kSum, parts, calls[r].out.data_ptr(),
                         calls[0].out.numel());
  }
}

void ThreadComm::Slot::broadcast() {
  const Call& root = calls[calls[0].root];
  for (const Call& call : calls)
    copy_bytes(bytes_of(root.in), root.in.nbytes(), bytes_of(call.out));
}

void ThreadComm::Slot::all_to_all() {
  const size_t part = calls[0].in.nbytes() / calls.size();
  for (size_t to = 0; to < calls.size(); ++to) {
    for (size_t from = 0; from < calls.size(); ++from) {
      copy_bytes(bytes_of(calls[from].in) + to * part, part, bytes_of(calls[to].out) + from * part);
    }
  }
}

}  // namespace

// ---- ranks as threads
// -----------------------------------------------------------------------------------------------------
std::vector<std::shared_ptr<Communicator>> make_thread_comms(int size) {
  FT_CHECK(size >= 1, "make_thread_comms wants at least one rank, found {}", size);
  const auto hub = std::make_shared<ThreadComm::Hub>(size);
  std::vector<std::shared_ptr<Communicator>> comms;
  for (int r = 0; r < size; ++r) comms.push_back(std::make_shared<ThreadComm>(hub, r));
  return comms;
}

namespace {

std::string message_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const std::exception& e) {
    return e.what();
  } catch (...) {
    return "an exception of unknown type";
  }
}

bool was_released(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const Released&) {
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace

void run_thread_ranks(int size, const std::function<void(Communicator&)>& body) {
  FT_CHECK(size >= 1, "run_thread_ranks wants at least one rank, found {}", size);
  const auto hub = std::make_shared<ThreadComm::Hub>(size);
  std::vector<std::unique_ptr<ThreadComm>> comms;
  for (int r = 0; r < size; ++r) comms.push_back(std::make_unique<ThreadComm>(hub, r));
  std::vector<std::exception_ptr> errors(size);
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      set_thread_log_rank(r, size);
      try {
        body(*comms[r]);
        hub->leave(r);
      } catch (...) {
        errors[r] = std::current_exception();
        hub->release(r, message_of(errors[r]));
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const bool released : {false, true}) {
    for (const std::exception_ptr& error : errors) {
      if (error && was_released(error) == released) std::rethrow_exception(error);
    }
  }
}

}  // namespace facetrain
