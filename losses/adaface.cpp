// AdaFace: the margin follows the feature's norm, a stand-in for image quality, measured against
// running statistics of the batch. Kim et al. 2022, arXiv:2204.00964, eq. 13 to 15.
//
// z is the norm within [0.001, 100], ẑ = h (z - mean) / (std + 1e-3) within ±1, both constants of
// the derivative: φ = cos(θ - m ẑ) - (m + m ẑ), the angle kept within [ε, π - ε] and the cosine
// within ±(1 - ε), ε = 1e-3, beyond which nothing is learned from the target. As in the authors'
// code the running statistics are updated first. That code also cuts the negatives' cosines at
// ±(1 - ε), which moves their logits by at most ε s; ours are left as they are. One row has no
// deviation: it leaves the running one alone.
#include <cmath>

#include "losses/angular_margin.h"
#include "losses/running_value.h"

namespace facetrain {
namespace {

constexpr double kEpsilon = 1e-3;

struct AdaFaceOptions {
  Scheduled margin = 0.4, scale = 64;
  double h = 0.333, alpha = 0.01;
  std::string gradient = "exact";
  void fields(auto& f) {
    f("margin", margin, range(0, 1), "size of both margins; a number or a schedule");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
    f("h", h, range(0, 100), "the margin swings with h (norm - mean) / deviation, within -1 and 1");
    f("alpha", alpha, range(0, 1), "weight of a batch in the running mean and deviation of norms");
    gradient_field(f, gradient);
  }
};

class AdaFace : public Margin {
 public:
  explicit AdaFace(const AdaFaceOptions& options)
      : options_(options),
        mean_(register_buffer("batch_mean", torch::full({1}, 20.0))),
        deviation_(register_buffer("batch_std", torch::full({1}, 100.0))) {}
  MarginOutput apply(const MarginInput& input) override {
    const at::Tensor norm = input.norm.clamp(0.001, 100);
    if (is_training()) update(norm);
    const at::Tensor quality =
        (options_.h * (norm - mean_.now()) / (deviation_.now() + kEpsilon)).clamp(-1, 1);
    const double m = input.now(options_.margin);
    const Angle at = angle_of(input.target.clamp(-1 + kEpsilon, 1 - kEpsilon));
    const at::Tensor moved = at.angle - m * quality;
    AngularTarget target;
    target.phi = moved.clamp(kEpsilon, M_PI - kEpsilon).cos() - (m + m * quality);
    const at::Tensor inside = (moved > kEpsilon)
                                  .logical_and(moved < M_PI - kEpsilon)
                                  .logical_and(input.target.abs() < 1 - kEpsilon);
    target.dphi_dcos = at::where(inside, moved.sin() / at.sine, at::zeros_like(moved));
    return angular_output(target, options_.gradient, input.now(options_.scale));
  }
  void commit() override {
    mean_.commit();
    deviation_.commit();
  }
  void discard() override {
    mean_.discard();
    deviation_.discard();
  }

 private:
  void update(const at::Tensor& norm) {
    const double alpha = options_.alpha;
    mean_.keep(alpha * norm.mean() + (1 - alpha) * mean_.now());
    if (norm.size(0) > 1) deviation_.keep(alpha * norm.std() + (1 - alpha) * deviation_.now());
  }

  AdaFaceOptions options_;
  RunningValue mean_, deviation_;
};

const bool registered = Margins::get().add<AdaFace, AdaFaceOptions>(
    "adaface", "margin by the norm's place among running norms (Kim 2022)");

}  // namespace
}  // namespace facetrain
