// One number that a margin keeps from batch to batch, in a buffer that follows the step's verdict.
//
// The statistic is over the rows of a micro-batch of all ranks, which every rank sees alike, so it
// is equal on all of them without a reduction. k micro-batches of a step are k updates in their
// order, each starting from the one before, as k batches would be; commit() writes the last into
// the buffer, discard() forgets all k. Outside training nothing is kept.
#pragma once

#include <utility>

#include "core/torch.h"

namespace facetrain {

class RunningValue {
 public:
  // `buffer` [1]: registered by the margin, so that checkpoints hold it.
  explicit RunningValue(at::Tensor buffer) : buffer_(std::move(buffer)) {}
  // [1]: the value that the next micro-batch starts from, of the buffer's type.
  const at::Tensor& now() const { return pending_.defined() ? pending_ : buffer_; }
  void keep(at::Tensor value) { pending_ = std::move(value); }
  void commit() {
    const at::NoGradGuard no_grad;
    if (pending_.defined()) buffer_.copy_(pending_);
    discard();
  }
  void discard() { pending_.reset(); }

 private:
  at::Tensor buffer_, pending_;
};

}  // namespace facetrain
