#include "trainer/precision.h"

#include <ATen/autocast_mode.h>

#include <algorithm>

#include "core/check.h"

namespace facetrain {
namespace {
constexpr double kFirstScale = 65536;
constexpr int64_t kScaleInterval = 2000;
}  // namespace

Precision parse_precision(const std::string& name, const c10::Device& device) {
  if (name == "fp32") return Precision::kFp32;
  if (name == "bf16") return Precision::kBf16;
  if (name == "fp16") {
    FT_CHECK(device.is_cuda(),
             "trainer.precision: fp16 runs on CUDA only; on the CPU use bf16 or fp32");
    return Precision::kFp16;
  }
  FT_CHECK(name == "fp64", "trainer.precision: wanted fp32, bf16, fp16 or fp64, found '{}'", name);
  FT_CHECK(device.is_cpu(),
           "trainer.precision: fp64 runs on the CPU only; on CUDA use fp32 or bf16");
  return Precision::kFp64;
}

at::ScalarType parameter_type(Precision precision) {
  return precision == Precision::kFp64 ? at::kDouble : at::kFloat;
}

AutocastScope::AutocastScope(Precision precision, const c10::Device& device)
    : active_(precision == Precision::kBf16 || precision == Precision::kFp16),
      device_(device.type()) {
  if (!active_) return;
  was_enabled_ = at::autocast::is_autocast_enabled(device_);
  previous_ = at::autocast::get_autocast_dtype(device_);
  at::autocast::set_autocast_enabled(device_, true);
  at::autocast::set_autocast_dtype(device_,
                                   precision == Precision::kBf16 ? at::kBFloat16 : at::kHalf);
}

AutocastScope::~AutocastScope() {
  if (!active_) return;
  at::autocast::clear_cache();
  at::autocast::set_autocast_enabled(device_, was_enabled_);
  at::autocast::set_autocast_dtype(device_, previous_);
}

void start_loss_scale(Precision precision, TrainState& state) {
  state.loss_scale = precision == Precision::kFp16 ? kFirstScale : 1;
  state.scale_streak = 0;
}

void adapt_loss_scale(Precision precision, bool finite, TrainState& state) {
  if (precision != Precision::kFp16) return;
  if (!finite) {
    state.loss_scale = std::max(state.loss_scale / 2, 1.0);
    state.scale_streak = 0;
  } else if (++state.scale_streak == kScaleInterval) {
    state.loss_scale *= 2;
    state.scale_streak = 0;
  }
}

}  // namespace facetrain
