// MagFace: margin and a penalty follow the feature's norm, so that the norm comes to tell quality.
// Meng et al. 2021, arXiv:2103.06627, eq. 4 to 6.
//
// z is the norm kept within [l_a, u_a]; m(z) rises linearly from l_m to u_m; the penalty is
// λ (z / u_a² + 1 / z). Derivatives go through m(z) and the penalty, and are zero where the norm is
// cut off. `kind: cos` subtracts m(z) from the cosine (the authors' Mag-CosFace: l_m 0.35, u_m 0.8,
// λ 150).
#include "losses/angular_margin.h"

namespace facetrain {
namespace {

struct MagFaceOptions {
  std::string kind = "arc";
  Scheduled scale = 64;
  double l_a = 10, u_a = 110, l_m = 0.45, u_m = 0.8, penalty = 35;
  std::string gradient = "exact", fallback = "easy";
  void fields(auto& f) {
    f("kind", kind, one_of("arc", "cos"), "whether the margin is in the angle or in the cosine");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
    f("l_a", l_a, range(1e-3, 1e6), "smallest feature norm; smaller ones count as this");
    f("u_a", u_a, range(1e-3, 1e6), "largest feature norm; larger ones count as this");
    f("l_m", l_m, range(0, 1.5707), "margin at the smallest norm (cos: published 0.35)");
    f("u_m", u_m, range(0, 1.5707), "margin at the largest norm");
    f("penalty", penalty, at_least(0), "weight of the norm's penalty (cos: published 150)");
    gradient_field(f, gradient);
    fallback_field(f, fallback);
  }
};

class MagFace : public Margin {
 public:
  explicit MagFace(const MagFaceOptions& options) : options_(options) {
    FT_CHECK(options.l_a < options.u_a, "magface: wanted l_a < u_a, found {} and {}", options.l_a,
             options.u_a);
  }
  MarginOutput apply(const MarginInput& input) override {
    const double l_a = options_.l_a, u_a = options_.u_a;
    const double slope = (options_.u_m - options_.l_m) / (u_a - l_a);
    const at::Tensor z = input.norm.clamp(l_a, u_a);
    const at::Tensor inside = (input.norm > l_a).logical_and(input.norm < u_a).to(z.scalar_type());
    const at::Tensor margin = slope * (z - l_a) + options_.l_m;
    AngularTarget target{input.target - margin, at::ones_like(z), -at::ones_like(z)};
    if (options_.kind == "arc") target = add_angle(input.target, margin, options_.fallback);
    MarginOutput out = angular_output(target, options_.gradient, input.now(options_.scale));
    if (options_.gradient == "exact") out.dphi_dnorm = target.dphi_dmargin * slope * inside;
    const double square = u_a * u_a;
    out.penalty = options_.penalty * (z / square + 1 / z);
    out.dpenalty_dnorm = options_.penalty * (1 / square - 1 / z.square()) * inside;
    return out;
  }

 private:
  MagFaceOptions options_;
};

const bool registered = Margins::get().add<MagFace, MagFaceOptions>(
    "magface", "margin and penalty by the feature's norm (Meng 2021)");

}  // namespace
}  // namespace facetrain
