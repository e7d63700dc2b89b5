// AdaCos: no margin, and a scale that follows the batch instead of being chosen. Zhang et al. 2019,
// arXiv:1905.00292, eq. 14 and 15.
//
// It starts at √2 ln(C - 1). Each batch: B = the mean over rows of Σ exp(s c_j) over the negatives
// (a pre-pass), θ = the median of the target angles, and s <- ln B / cos(min(π / 4, θ)), used in
// the same step. Kept within 1 ... 1024: with few or no negatives (small sample_rate) ln B is
// small. `dynamic: false` keeps the start, the paper's fixed AdaCos.
#include <algorithm>
#include <cmath>

#include "losses/margin.h"
#include "losses/running_value.h"

namespace facetrain {
namespace {

constexpr double kSmallest = 1, kLargest = 1024;

struct AdaCosOptions {
  bool dynamic = true;
  void fields(auto& f) {
    f("dynamic", dynamic, "whether the scale follows the batch; false: it stays sqrt(2) ln(C - 1)");
  }
};

class AdaCos : public Margin {
 public:
  explicit AdaCos(const AdaCosOptions& options)
      : options_(options), scale_(register_buffer("scale", torch::zeros({1}))) {}
  MarginRule rule() const override {
    MarginRule rule;
    if (options_.dynamic && is_training()) rule.prepass = Prepass::kLogSumExp;
    return rule;
  }
  at::Tensor prepass_parameter(const MarginInput& input) override { return scale_now(input); }
  MarginOutput apply(const MarginInput& input) override {
    if (input.prepass_sum.defined()) scale_.keep(next_scale(input));
    MarginOutput out = plain_output(input.target, 1);
    out.scale = scale_now(input).contiguous();
    return out;
  }
  void commit() override { scale_.commit(); }
  void discard() override { scale_.discard(); }

 private:
  // [B], all alike. Zero in the buffer: nothing has been seen yet.
  at::Tensor scale_now(const MarginInput& input) const {
    const double others = static_cast<double>(std::max<int64_t>(1, input.classes - 1));
    const double start = std::clamp(std::sqrt(2.0) * std::log(others), kSmallest, kLargest);
    const at::Tensor& scale = scale_.now();
    return at::where(scale > 0, scale, at::full_like(scale, start)).expand_as(input.target);
  }
  static at::Tensor next_scale(const MarginInput& input) {
    const double rows = static_cast<double>(input.target.size(0));
    const at::Tensor angle = input.target.clamp(-1, 1).acos().median().clamp_max(M_PI / 4);
    const at::Tensor log_mean = input.prepass_sum.logsumexp(0) - std::log(rows);
    return (log_mean / angle.cos()).clamp(kSmallest, kLargest).view({1});
  }

  AdaCosOptions options_;
  RunningValue scale_;
};

const bool registered = Margins::get().add<AdaCos, AdaCosOptions>(
    "adacos", "scaled cosines, the scale found by itself (Zhang 2019)");

}  // namespace
}  // namespace facetrain
