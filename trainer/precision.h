// Number types of a run. Parameters, optimizer state and reductions are fp32 (fp64 under fp64);
// forward and backward run in bf16 or fp16 autocast. Recipes stay free of all this.
#pragma once

#include <c10/core/Device.h>
#include <c10/core/ScalarType.h>

#include <string>

#include "trainer/progress.h"

namespace facetrain {

enum class Precision { kFp32, kBf16, kFp16, kFp64 };

// Throws for a precision that the device has not: fp16 wants CUDA, fp64 the CPU.
Precision parse_precision(const std::string& name, const c10::Device& device);
// Of parameters: double under fp64, else float.
at::ScalarType parameter_type(Precision precision);

// Autocast for the duration of a scope (nothing under fp32 and fp64). Its cache of cast weights
// ends with the scope.
class AutocastScope {
 public:
  AutocastScope(Precision precision, const c10::Device& device);
  ~AutocastScope();
  AutocastScope(const AutocastScope&) = delete;
  AutocastScope& operator=(const AutocastScope&) = delete;

 private:
  bool active_ = false;
  c10::DeviceType device_;
  bool was_enabled_ = false;
  at::ScalarType previous_ = at::kFloat;
};

// Dynamic loss scaling of fp16 (Micikevicius et al. 2018, arXiv:1710.03740): doubled after
// `kScaleInterval` finite steps in a row, halved after a skipped one. Leaves other precisions at 1.
void start_loss_scale(Precision precision, TrainState& state);
void adapt_loss_scale(Precision precision, bool finite, TrainState& state);

}  // namespace facetrain
