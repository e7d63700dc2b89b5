// SphereFace (A-Softmax): the target's angle is multiplied. Liu et al. 2017, arXiv:1704.08063, with
// the annealing of the authors' code.
//
// φ = (λ c + ψ(θ)) / (1 + λ), ψ = (-1)^j cos(m θ) - 2 j, j = ⌊m θ / π⌋; λ = max(blend_end,
// blend_start / (1 + blend_decay step)) keeps the first steps near a plain softmax. The class rows
// are normalised; the logits' scale is the feature's norm as published (`norm: none`), or fixed
// (`norm: hard`; OpenSphere: margin 1.7, scale 30, straight_through, no blending).
#include <algorithm>

#include "losses/angular_margin.h"

namespace facetrain {
namespace {

struct SphereFaceOptions {
  Scheduled margin = 4, scale = 30;
  std::string norm = "none", gradient = "exact";
  double blend_start = 1000, blend_decay = 0.12, blend_end = 5;
  void fields(auto& f) {
    f("margin", margin, range(1, 8), "multiplies the target's angle; a number or a schedule");
    f("norm", norm, one_of("none", "hard"),
      "none: features are not normalised, their norm is the scale; hard: the scale is fixed");
    f("scale", scale, range(1, 1024), "of norm: hard; a number or a schedule");
    f("blend_start", blend_start, at_least(0), "λ of the plain cosine at the first step");
    f("blend_decay", blend_decay, at_least(0), "λ = blend_start / (1 + blend_decay step)");
    f("blend_end", blend_end, at_least(0), "smallest λ; 0 with blend_start 0: no blending");
    gradient_field(f, gradient);
  }
};

class SphereFace : public Margin {
 public:
  explicit SphereFace(const SphereFaceOptions& options) : options_(options) {}
  MarginOutput apply(const MarginInput& input) override {
    const double blend = std::max(
        options_.blend_end,
        options_.blend_start / (1 + options_.blend_decay * static_cast<double>(input.step)));
    AngularTarget target = fall_with_angle(input.target, input.now(options_.margin));
    target.phi = (blend * input.target + target.phi) / (1 + blend);
    target.dphi_dcos = (blend + target.dphi_dcos) / (1 + blend);
    MarginOutput out = angular_output(target, options_.gradient, input.now(options_.scale));
    if (options_.norm == "none") {
      out.scale = input.norm;
      out.dscale_dnorm = at::ones_like(input.norm);
    }
    return out;
  }

 private:
  SphereFaceOptions options_;
};

const bool registered = Margins::get().add<SphereFace, SphereFaceOptions>(
    "sphereface", "the target's angle multiplied (Liu 2017)");

}  // namespace
}  // namespace facetrain
