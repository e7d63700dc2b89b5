#include "comm/grad_reducer.h"

#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <map>
#include <mutex>
#include <unordered_map>

#include "core/check.h"
#include "core/torch.h"

namespace facetrain {
namespace {

using Named = std::vector<std::pair<std::string, at::Tensor>>;

struct Entry {
  std::string name;
  at::Tensor parameter;
  at::Tensor view;  // its gradient, inside the bucket
  size_t bucket = 0;
  int64_t index = 0;     // among the bucket's parameters
  bool arrived = false;  // in this backward
};

struct Bucket {
  at::Tensor flat;               // gradients, then one element a parameter
  at::Tensor gradients, counts;  // the two parts of `flat`
  std::vector<size_t> members;   // indices of entries
  // By this rank's backward of this step: 0 or 1. On the host, pinned for a device: its copy must
  // not make the host wait for the backward.
  at::Tensor reached;
  int64_t pending = 0;  // parameters that this backward has not reached yet
  bool launched = false;
  Work work;
};

// A multiple of 64 bytes: gradients start where vector instructions like it.
int64_t aligned(int64_t elements, int64_t element_bytes) {
  const int64_t unit = 64 / element_bytes;
  return (elements + unit - 1) / unit * unit;
}

class ArrivalHook : public torch::autograd::PostAccumulateGradHook {
 public:
  explicit ArrivalHook(std::function<void()> arrived) : arrived_(std::move(arrived)) {}
  void operator()(const torch::autograd::Variable&) override { arrived_(); }

 private:
  std::function<void()> arrived_;
};

}  // namespace

struct GradReducer::Parts {
  Parts(Communicator& comm, GradReducerOptions options) : comm(comm), options(options) {}
  ~Parts() { release(); }

  void build(const Named& parameters);
  void release();
  void arrived(size_t entry);
  void launch_full();
  void launch(Bucket& bucket);

  Communicator& comm;
  const GradReducerOptions options;
  std::vector<Entry> entries;
  std::vector<Bucket> buckets;
  std::unordered_map<const void*, size_t> entry_of;  // by TensorImpl
  std::vector<std::vector<bool>> reached;            // [bucket][index], after finish()
  // Backward runs on the calling thread for host parameters and on a device thread for others.
  std::mutex mutex;
  bool overlapping = false;  // in the last backward of a step
  size_t next = 0;           // the first bucket that is not launched

 private:
  void assign(const Named& parameters);
  void allocate();
};

// ---- layout
// -----------------------------------------------------------------------------------------------------------
void GradReducer::Parts::assign(const Named& parameters) {
  std::map<std::pair<at::ScalarType, std::string>, std::pair<size_t, int64_t>>
      open;  // type and device -> bucket, bytes
  for (auto it = parameters.rbegin(); it != parameters.rend(); ++it) {
    const auto& [name, parameter] = *it;
    FT_CHECK(parameter.defined() && parameter.is_leaf() && parameter.requires_grad(),
             "the gradient reducer wants parameters that require a gradient; '{}' does not. Leave "
             "frozen parameters out",
             name);
    FT_CHECK(
        parameter.is_floating_point() && parameter.is_non_overlapping_and_dense(),
        "the gradient reducer wants dense floating point parameters; '{}' is {} with strides {}",
        name, c10::toString(parameter.scalar_type()), fmt::join(parameter.strides(), ","));
    FT_CHECK(entry_of.emplace(parameter.unsafeGetTensorImpl(), entries.size()).second,
             "parameter '{}' was given to the gradient reducer twice", name);
    FT_CHECK(torch::autograd::impl::post_acc_grad_hooks(parameter) == nullptr,
             "parameter '{}' already belongs to another gradient reducer", name);
    const int64_t bytes =
        aligned(parameter.numel(), parameter.element_size()) * parameter.element_size();
    const auto key = std::pair(parameter.scalar_type(), parameter.device().str());
    const auto found = open.find(key);
    if (found == open.end() || found->second.second + bytes > options.bucket_bytes) {
      open[key] = {buckets.size(), 0};
      buckets.emplace_back();
    }
    auto& [bucket, used] = open[key];
    used += bytes;
    const auto index = std::ssize(buckets[bucket].members);
    buckets[bucket].members.push_back(entries.size());
    entries.push_back(
        {.name = name, .parameter = parameter, .view = {}, .bucket = bucket, .index = index});
  }
}

void GradReducer::Parts::allocate() {
  for (Bucket& bucket : buckets) {
    int64_t total = 0;
    for (const size_t e : bucket.members)
      total += aligned(entries[e].parameter.numel(), entries[e].parameter.element_size());
    const int64_t members = std::ssize(bucket.members);
    bucket.flat = at::zeros({total + members},
                            entries[bucket.members[0]].parameter.options().requires_grad(false));
    bucket.gradients = bucket.flat.narrow(0, 0, total);
    bucket.counts = bucket.flat.narrow(0, total, members);
    bucket.reached = at::zeros({members}, bucket.flat.options().device(at::kCPU));
    if (bucket.flat.is_cuda()) bucket.reached = bucket.reached.pin_memory();
    int64_t offset = 0;
    for (const size_t e : bucket.members) {
      const at::Tensor& parameter = entries[e].parameter;
      entries[e].view = bucket.flat.as_strided(parameter.sizes(), parameter.strides(), offset);
      offset += aligned(parameter.numel(), parameter.element_size());
    }
  }
}

void GradReducer::Parts::build(const Named& parameters) {
  const at::NoGradGuard no_grad;
  FT_CHECK(options.bucket_bytes > 0, "bucket_bytes wants a positive number, found {}",
           options.bucket_bytes);
  assign(parameters);
  allocate();
  for (size_t e = 0; e < entries.size(); ++e) {
    at::Tensor& parameter = entries[e].parameter;
    parameter.mutable_grad() = entries[e].view;
    torch::autograd::impl::set_post_acc_grad_hooks(
        parameter, std::make_unique<ArrivalHook>([this, e] { arrived(e); }));
  }
}

void GradReducer::Parts::release() {
  for (Entry& entry : entries) {
    if (!entry.view.defined()) continue;  // construction failed before it was taken
    torch::autograd::impl::set_post_acc_grad_hooks(entry.parameter, nullptr);
    if (entry.parameter.grad().is_same(entry.view)) entry.parameter.mutable_grad().reset();
  }
  entries.clear();
  buckets.clear();  // waits for what is in flight
  entry_of.clear();
  reached.clear();
  overlapping = false;
  next = 0;
}

// ---- a step
// -----------------------------------------------------------------------------------------------------------
void GradReducer::Parts::arrived(size_t index) {
  const std::lock_guard lock(mutex);
  Entry& entry = entries[index];
  Bucket& bucket = buckets[entry.bucket];
  FT_CHECK(entry.parameter.grad().defined() &&
               entry.parameter.grad().data_ptr() == entry.view.data_ptr(),
           "the gradient of '{}' was replaced; zero gradients only through GradReducer::zero()",
           entry.name);
  bucket.reached[entry.index].fill_(1);
  if (!overlapping) return;
  FT_CHECK(!entry.arrived,
           "the gradient of '{}' arrived twice in the last backward of a step; run one backward, "
           "or set overlap: false",
           entry.name);
  entry.arrived = true;
  if (--bucket.pending == 0) launch_full();
}

// In order: whatever order autograd takes, every rank issues the same sequence.
void GradReducer::Parts::launch_full() {
  while (next < buckets.size() && buckets[next].pending == 0) launch(buckets[next++]);
}

void GradReducer::Parts::launch(Bucket& bucket) {
  const at::NoGradGuard no_grad;
  bucket.counts.copy_(bucket.reached, /*non_blocking=*/true);
  bucket.launched = true;
  bucket.work = comm.all_reduce(bucket.flat, ReduceOp::kSum);
}

GradReducer::GradReducer(Named parameters, Communicator& comm, GradReducerOptions options)
    : parts_(std::make_unique<Parts>(comm, options)) {
  parts_->build(parameters);
}

GradReducer::~GradReducer() = default;

void GradReducer::rebuild(Named live) {
  parts_->release();
  parts_->build(live);
}

void GradReducer::zero() {
  const at::NoGradGuard no_grad;
  for (Bucket& bucket : parts_->buckets) {
    FT_CHECK(!bucket.launched, "GradReducer::zero() before finish() of the step before");
    bucket.flat.zero_();
    bucket.reached.zero_();
  }
}

void GradReducer::begin(bool last) {
  const std::lock_guard lock(parts_->mutex);
  for (const Bucket& bucket : parts_->buckets) {
    FT_CHECK(
        !bucket.launched,
        "GradReducer::begin() after the last backward of a step; call finish() and zero() first");
  }
  parts_->overlapping = last && parts_->options.overlap;
  parts_->next = 0;
  for (Bucket& bucket : parts_->buckets) bucket.pending = std::ssize(bucket.members);
  for (Entry& entry : parts_->entries) entry.arrived = false;
}

void GradReducer::finish() {
  const at::NoGradGuard no_grad;
  Parts& parts = *parts_;
  for (; parts.next < parts.buckets.size(); ++parts.next) parts.launch(parts.buckets[parts.next]);
  parts.overlapping = false;
  parts.next = 0;
  parts.reached.clear();
  std::vector<at::Tensor> counts;
  for (Bucket& bucket : parts.buckets) {
    bucket.work.wait();
    bucket.launched = false;
    counts.push_back(bucket.counts.to(at::kDouble));
    if (parts.comm.size() > 1) bucket.gradients.div_(parts.comm.size());
  }
  for (const at::Tensor& count : counts) {
    const at::Tensor host = count.cpu();
    const double* begin = host.data_ptr<double>();
    std::vector<bool>& bucket = parts.reached.emplace_back();
    for (int64_t i = 0; i < host.numel(); ++i) bucket.push_back(begin[i] > 0);
  }
}

bool GradReducer::reached(const at::Tensor& parameter) const {
  const auto found = parts_->entry_of.find(parameter.unsafeGetTensorImpl());
  FT_CHECK(found != parts_->entry_of.end(),
           "GradReducer::reached() was asked about a tensor that is none of its parameters");
  FT_CHECK(!parts_->reached.empty(), "GradReducer::reached() is known after finish()");
  const Entry& entry = parts_->entries[found->second];
  return parts_->reached[entry.bucket][entry.index];
}

}  // namespace facetrain
