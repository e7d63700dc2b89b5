// Where in the run a forward stands: the only source of randomness inside networks and losses.
//
// The trainer opens a StepScope around each forward; layers draw from it by (seed, step or sample
// position, view, their own name), so dropout, drop path, masks and elastic margins are the same at
// any world size, micro-batching and resume.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string_view>

namespace facetrain {

struct StepContext {
  uint64_t seed = 0;
  int64_t step = 0;  // optimizer step, from 0
  int64_t total_steps = 0;
  int64_t view = 0;      // which augmented view of the sample
  at::Tensor positions;  // [B] int64, the samples' positions in the global stream; undefined
                         // outside training
};

// Makes `context` current for this thread until the end of the scope. Scopes nest.
class StepScope {
 public:
  explicit StepScope(StepContext context);
  ~StepScope();
  StepScope(const StepScope&) = delete;
  StepScope& operator=(const StepScope&) = delete;

 private:
  StepContext previous_;
};

const StepContext& step_context();

// Numbers in [0, 1), fp32 [B, columns], on the device of the positions: row b depends on (seed,
// positions[b], view, name) only. Throws outside a StepScope with positions.
at::Tensor sample_uniform(int64_t columns, std::string_view name);
// The same numbers, made by tensor operations on the positions' device: what sample_uniform does
// off the CPU.
at::Tensor sample_uniform_by_tensors(int64_t columns, std::string_view name);

// Numbers in [0, 1), fp32 [count], the same on every rank: depend on (seed, step, name) only.
at::Tensor step_uniform(int64_t count, std::string_view name, const at::Device& device);

}  // namespace facetrain
