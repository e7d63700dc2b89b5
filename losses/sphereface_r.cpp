// SphereFace-R: SphereFace revived, three shapes of a multiplied angle and three treatments of the
// norm. Liu et al. 2022, arXiv:2109.05565.
//
// `shape`: v0 target ψ(m θ) (see sphereface); v1 target cos(min(m θ, π)); v2 target cos θ and
// negatives cos(θ / m). `norm`: hard, a fixed scale; none, the feature's norm is the scale; soft,
// the same plus soft_weight |norm - scale|; hard and soft multiply the soft-max's loss by
// loss_weight / scale. The authors detach the margins (their characteristic gradient detachment),
// so straight_through is the default; the negatives' correction of v2 is always detached. The
// authors' growing margin of none and soft is a schedule: {at: [0, ...], value: [1, ...]}.
#include <cmath>

#include "losses/angular_margin.h"

namespace facetrain {
namespace {

struct SphereFaceROptions {
  std::string shape = "v1", norm = "hard", gradient = "straight_through";
  Scheduled margin = 1.5, scale = 30;
  double soft_weight = 0.01, loss_weight = 50;
  void fields(auto& f) {
    f("shape", shape, one_of("v0", "v1", "v2"),
      "v0: the margin continues beyond pi; v1: it stops there; v2: it divides the negatives");
    f("norm", norm, one_of("hard", "none", "soft"),
      "hard: fixed scale; none: the feature's norm; soft: the norm, drawn towards the scale");
    f("margin", margin, range(1, 8),
      "multiplies the target's angle; a number or a schedule (v2: a number)");
    f("scale", scale, range(1, 1024),
      "of norm: hard, and the norm that soft aims at; a number or a schedule");
    f("soft_weight", soft_weight, at_least(0), "of norm: soft, weight of |norm - scale|");
    f("loss_weight", loss_weight, range(0, 1e6),
      "of norm: hard and soft, the soft-max's loss is multiplied by this / scale");
    gradient_field(f, gradient);
  }
};

class SphereFaceR : public Margin {
 public:
  explicit SphereFaceR(const SphereFaceROptions& options) : options_(options) {
    if (options_.shape != "v2") return;
    FT_CHECK(options_.margin.value.size() == 1,
             "sphereface_r: shape v2 wants one number as its margin, found a schedule; use shape "
             "v0 or v1");
    FT_CHECK(options_.gradient == "straight_through",
             "sphereface_r: shape v2 knows the gradient straight_through only, found {}",
             options_.gradient);
  }
  MarginRule rule() const override {
    MarginRule rule;
    if (options_.shape == "v2") {
      rule.negative = NegativeRule::kAngleDivide;
      rule.negative_a = options_.margin.value.front();
    }
    return rule;
  }
  MarginOutput apply(const MarginInput& input) override {
    const double scale = input.now(options_.scale);
    MarginOutput out = angular_output(target_of(input), options_.gradient, scale);
    if (options_.norm != "none")
      out.weight = at::full_like(input.target, options_.loss_weight / scale);
    if (options_.norm == "hard") return out;
    out.scale = input.norm;
    out.dscale_dnorm = at::ones_like(input.norm);
    if (options_.norm == "soft") {
      out.penalty = options_.soft_weight * (input.norm - scale).abs();
      out.dpenalty_dnorm = options_.soft_weight * (input.norm - scale).sign();
    }
    return out;
  }

 private:
  AngularTarget target_of(const MarginInput& input) const {
    const double m = input.now(options_.margin);
    if (options_.shape == "v0") return fall_with_angle(input.target, m);
    if (options_.shape == "v2") return {input.target, at::ones_like(input.target), {}};
    AngularTarget target = scale_angle(input.target, m, 0);
    const at::Tensor far = m * angle_of(input.target).angle >= M_PI;
    target.phi = target.phi.masked_fill(far, -1);
    target.dphi_dcos = target.dphi_dcos.masked_fill(far, 0);
    return target;
  }

  SphereFaceROptions options_;
};

const bool registered = Margins::get().add<SphereFaceR, SphereFaceROptions>(
    "sphereface_r", "multiplied angles in three shapes, three norms (Liu 2022)");

}  // namespace
}  // namespace facetrain
