#include "comm/communicator.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <map>
#include <utility>

#include "comm/host_reduce.h"
#include "core/check.h"

namespace facetrain {

// ---- Work
// -----------------------------------------------------------------------------------------------------------
Work& Work::operator=(Work&& other) {
  if (this != &other) {
    wait();
    state_ = std::move(other.state_);
  }
  return *this;
}

Work::~Work() noexcept(false) {
  if (std::uncaught_exceptions() == 0) wait();
}

void Work::wait() {
  if (const auto state = std::exchange(state_, nullptr)) state->wait();
}

// ---- names
// ----------------------------------------------------------------------------------------------------------
std::string Communicator::Call::signature() const {
  const char* names[] = {"all_reduce", "all_gather", "reduce_scatter",
                         "broadcast",  "all_to_all", "barrier"};
  std::string text = names[static_cast<int>(kind)];
  if (kind == Kind::kAllReduce && op == ReduceOp::kMax) text += "(max)";
  if (kind != Kind::kBarrier)
    text += fmt::format(" of {} {}", in.numel(), c10::toString(in.scalar_type()));
  if (kind == Kind::kBroadcast) text += fmt::format(" from rank {}", root);
  return fmt::format("{} at {}:{}", text, place.file_name(), place.line());
}

std::string Communicator::Call::name() const {
  std::string text = signature();
  return text.insert(std::min(text.find(' '), text.size()), fmt::format(" #{}", sequence));
}

std::string name_ranks(const std::vector<int>& ranks) {
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (i > 0) text += i + 1 == ranks.size() ? " and " : ", ";
    text += std::to_string(ranks[i]);
  }
  return text;
}

// ---- the collectives
// ------------------------------------------------------------------------------------------------
namespace {

void check_tensor(const char* operation, const at::Tensor& tensor) {
  FT_CHECK(tensor.defined(), "{} wants a tensor, found an undefined one", operation);
  FT_CHECK(tensor.layout() == c10::kStrided && tensor.is_contiguous(),
           "{} wants a contiguous tensor, found one of shape {} with strides {}; call contiguous() "
           "or give its flat storage",
           operation, fmt::join(tensor.sizes(), "x"), fmt::join(tensor.strides(), ","));
}

void check_pair(const char* operation, const at::Tensor& out, const at::Tensor& in,
                int64_t out_parts, int64_t in_parts) {
  check_tensor(operation, out);
  check_tensor(operation, in);
  FT_CHECK(out.scalar_type() == in.scalar_type() && out.device() == in.device(),
           "{} wants two tensors of one type on one device, found out {} on {} and in {} on {}",
           operation, c10::toString(out.scalar_type()), out.device().str(),
           c10::toString(in.scalar_type()), in.device().str());
  FT_CHECK(out.numel() * in_parts == in.numel() * out_parts,
           "{} wants out : in = {} : {} elements, found {} : {}", operation, out_parts, in_parts,
           out.numel(), in.numel());
}

void check_reducible(const char* operation, const at::Tensor& tensor) {
  FT_CHECK(is_reducible(tensor.scalar_type()),
           "{} wants fp64, fp32, bf16, fp16, int64, int32 or uint8, found {}; convert it first",
           operation, c10::toString(tensor.scalar_type()));
}

}  // namespace

Work Communicator::all_reduce(const at::Tensor& tensor, ReduceOp op, Place place) {
  check_tensor("all_reduce", tensor);
  check_reducible("all_reduce", tensor);
  return submit({.kind = Kind::kAllReduce, .out = tensor, .in = tensor, .op = op, .place = place});
}

Work Communicator::all_gather(const at::Tensor& out, const at::Tensor& in, Place place) {
  check_pair("all_gather", out, in, size(), 1);
  return submit({.kind = Kind::kAllGather, .out = out, .in = in, .place = place});
}

Work Communicator::reduce_scatter(const at::Tensor& out, const at::Tensor& in, Place place) {
  check_pair("reduce_scatter", out, in, 1, size());
  check_reducible("reduce_scatter", in);
  return submit({.kind = Kind::kReduceScatter, .out = out, .in = in, .place = place});
}

Work Communicator::broadcast(const at::Tensor& tensor, int root, Place place) {
  check_tensor("broadcast", tensor);
  FT_CHECK(root >= 0 && root < size(), "broadcast wants a root of 0 to {}, found {}", size() - 1,
           root);
  return submit(
      {.kind = Kind::kBroadcast, .out = tensor, .in = tensor, .root = root, .place = place});
}

Work Communicator::all_to_all(const at::Tensor& out, const at::Tensor& in, Place place) {
  check_pair("all_to_all", out, in, 1, 1);
  FT_CHECK(in.numel() % size() == 0, "all_to_all wants a multiple of {} elements, found {}", size(),
           in.numel());
  FT_CHECK(!out.is_alias_of(in) || in.numel() == 0,
           "all_to_all wants out and in of different storage");
  return submit({.kind = Kind::kAllToAll, .out = out, .in = in, .place = place});
}

void Communicator::barrier(Place place) {
  submit({.kind = Kind::kBarrier, .out = {}, .in = {}, .place = place}).wait();
}

Work Communicator::submit(Call call) {
  call.sequence = sequence_++;
  if (comparing_ && size() > 1) compare_fingerprints(call);
  if (call.in.defined() && !takes(call.in.device())) return start_staged(call);
  return start(call);
}

// ---- device tensors over a host wire
// ----------------------------------------------------------------------------------
namespace {

class StagedWork : public Work::State {
 public:
  StagedWork(Work work, at::Tensor host, at::Tensor device)
      : work_(std::move(work)), host_(std::move(host)), device_(std::move(device)) {}
  ~StagedWork() noexcept override = default;
  void wait() override {
    work_.wait();
    const at::NoGradGuard no_grad;
    device_.detach().copy_(host_);
  }

 private:
  Work work_;
  at::Tensor host_, device_;
};

}  // namespace

Work Communicator::start_staged(const Call& call) {
  Call staged = call;
  // copy_ to pageable memory blocks until the device has finished what was issued before.
  staged.in =
      call.in.detach().to(at::kCPU, call.in.scalar_type(), /*non_blocking=*/false, /*copy=*/true);
  staged.out = call.out.is_same(call.in)
                   ? staged.in
                   : at::empty(call.out.sizes(), call.out.options().device(at::kCPU));
  Work work = start(staged);
  return Work(std::make_shared<StagedWork>(std::move(work), staged.out, call.out));
}

// ---- debug fingerprints
// -----------------------------------------------------------------------------------------------
bool Communicator::compare_requested() {
  const char* value = std::getenv("FACETRAIN_COMM_DEBUG");
  return value != nullptr && std::strcmp(value, "1") == 0;
}

void Communicator::compare_fingerprints(const Call& call) {
  constexpr int64_t kLength = 192;
  const auto options = at::TensorOptions().dtype(at::kByte);
  const at::Tensor mine = at::zeros({kLength}, options),
                   all = at::empty({size(), kLength}, options);
  const std::string text = call.signature();
  // The end of a long text is kept: it holds the line of the call.
  const size_t skip = text.size() < kLength ? 0 : text.size() - (kLength - 1);
  std::memcpy(mine.data_ptr(), text.data() + skip, text.size() - skip);
  start({.kind = Kind::kAllGather,
         .out = all,
         .in = mine,
         .sequence = call.sequence,
         .place = call.place})
      .wait();

  std::map<std::string, std::vector<int>> callers;
  const char* texts = static_cast<const char*>(all.data_ptr());
  for (int r = 0; r < size(); ++r) callers[texts + r * kLength].push_back(r);
  if (callers.size() == 1) return;
  // The call that most ranks make is taken to be right; of equals, the one that the lowest rank
  // makes.
  const auto usual =
      std::max_element(callers.begin(), callers.end(), [](const auto& a, const auto& b) {
        return std::pair(a.second.size(), -a.second[0]) < std::pair(b.second.size(), -b.second[0]);
      });
  std::string others;
  for (const auto& [what, ranks] : callers) {
    if (what == usual->first) continue;
    others += fmt::format("{}{} disagree{}: {}", others.empty() ? "" : "; ", name_ranks(ranks),
                          ranks.size() == 1 ? "s" : "", what);
  }
  FT_FAIL(
      "collective #{} differs between ranks: {}; while {} {}: {}. All ranks must make the same "
      "calls in the same order.",
      call.sequence, others, name_ranks(usual->second),
      usual->second.size() == 1 ? "makes" : "make", usual->first);
}

}  // namespace facetrain
