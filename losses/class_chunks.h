// A walk over this rank's classes of a step in chunks, with buffers made once and used for all.
//
// A chunk is its class rows as factors of GEMMs (unit vectors where the margin normalises), its
// cosines with all rows of the batch, and what the gradient needs. The chunk's size follows from
// the memory that it may take.
#pragma once

#include <torch/torch.h>

#include "comm/collectives.h"
#include "kernels/ops.h"
#include "losses/margin.h"

namespace facetrain {

// What this rank holds of the classes.
struct ClassShard {
  at::Tensor weight;   // [K n, D], fp32 or fp64: the type of all sums
  at::Tensor bias;     // [n] or undefined
  at::Tensor sampled;  // local ids of the step's classes, ascending, on the device; undefined: all
  Slice classes;       // global ids of the n classes
  int64_t step_classes() const { return sampled.defined() ? sampled.size(0) : classes.size(); }
};

class ClassChunks {
 public:
  // `factors` [B, D]: the batch in the GEMMs' type (that of shard.weight, or bf16). `gradients`:
  // with the buffers of the backward.
  ClassChunks(const ClassShard& shard, const MarginRule& rule, const at::Tensor& factors,
              int64_t bytes, bool gradients);

  // Calls body once a chunk, in order; the functions below then speak of it.
  template <class Body>
  void for_each(Body body) {
    for (first_ = 0; first_ < shard_.step_classes(); first_ += size_) {
      load();
      body();
    }
  }

  int64_t first() const { return first_; }  // place of the first class in the step's list
  int64_t count() const { return count_; }  // classes
  at::Tensor unit() const {
    return unit_.narrow(0, 0, count_ * group_);
  }  // [K n, D] in the GEMMs' type

  // Cosines (or products plus bias) [B, n] in the sums' type, the largest of each class's rows.
  // Call once a chunk.
  at::Tensor cosines();
  // Where the gradient by the cosines goes, in the GEMMs' type; may be the cosines' own place.
  at::Tensor gradient_for(const at::Tensor& cosines) const;
  // [B, n] to [B, K n]: each class's gradient goes to the row that was the largest.
  at::Tensor by_rows(const at::Tensor& gradient) const;
  // Writes the gradient of the chunk's rows, from [B, K n], to its place in all_rows [K
  // step_classes, D].
  void write_gradient(const at::Tensor& gradient, const at::Tensor& all_rows,
                      bool accumulate) const;

 private:
  void load();
  at::Tensor inverse() const { return inverse_.narrow(0, 0, count_ * group_); }
  at::Tensor bias() const;
  RowRange range() const { return {shard_.sampled, first_ * group_, group_}; }

  const ClassShard& shard_;
  bool normalise_, narrow_;
  at::Tensor factors_;
  int64_t group_, batch_, size_, first_ = 0, count_ = 0;
  at::Tensor unit_, inverse_, cosines_, gradient_, unit_gradient_;
  at::Tensor which_;  // [B, n] the largest of each class's rows (K > 1)
};

}  // namespace facetrain
