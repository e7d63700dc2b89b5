// A walk over this rank's classes of a step in chunks, with buffers made once and used for all.
//
// A chunk is its class rows as factors of GEMMs (unit vectors where the margin normalises), its
// cosines with all rows of the batch, and what the gradient needs. The chunk's size follows from
// the memory that it may take.
#pragma once

#include <ATen/Parallel.h>
#include <ATen/ThreadLocalState.h>

#include "comm/collectives.h"
#include "core/torch.h"
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

// How a step's classes are cut, a function of the problem alone.
struct ChunkPlan {
  int64_t chunk = 1;  // classes of a chunk at most
  int64_t parts = 1;  // on a CPU at most 16; on a device 1
};
// `factors` [B, D]: the batch in the GEMMs' type (that of shard.weight, or bf16). `gradients`: for
// the backward.
ChunkPlan plan_chunks(const ClassShard& shard, const MarginRule& rule, const at::Tensor& factors,
                      int64_t bytes, bool gradients);

class ClassChunks {
 public:
  ClassChunks(const ClassShard& shard, const MarginRule& rule, const at::Tensor& factors,
              int64_t chunk, bool gradients);

  // Calls body once a chunk of `range`, in order; the functions below then speak of it.
  template <class Body>
  void for_each(Slice range, Body body) {
    for (first_ = range.begin; first_ < range.end; first_ += size_) {
      load(range.end);
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
  void load(int64_t end);
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

// Calls body(chunks, part) for every chunk of the step's classes; parts run in parallel.
template <class Body>
void for_chunks(const ClassShard& shard, const MarginRule& rule, const at::Tensor& factors,
                ChunkPlan plan, bool gradients, Body body) {
  const auto run = [&](int64_t begin, int64_t end) {
    ClassChunks chunks(shard, rule, factors, plan.chunk, gradients);
    for (int64_t part = begin; part < end; ++part)
      chunks.for_each(
          slice_of(shard.step_classes(), static_cast<int>(part), static_cast<int>(plan.parts)),
          [&] { body(chunks, part); });
  };
  if (plan.parts == 1) return run(0, 1);
  const at::ThreadLocalState state;  // grad and inference mode, autocast
  at::parallel_for(0, plan.parts, 1, [&](int64_t begin, int64_t end) {
    const at::ThreadLocalStateGuard guard(state);
    run(begin, end);
  });
}

}  // namespace facetrain
