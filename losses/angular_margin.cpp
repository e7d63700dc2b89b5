#include "losses/angular_margin.h"

#include <cmath>

namespace facetrain {
namespace {

constexpr double kSmallestSine = 1e-6;

}  // namespace

Angle angle_of(const at::Tensor& cosine) {
  Angle all;
  all.cosine = cosine.clamp(-1, 1);
  all.angle = all.cosine.acos();
  all.sine = all.angle.sin().clamp_min(kSmallestSine);
  return all;
}

AngularTarget add_angle(const at::Tensor& cosine, const at::Tensor& margin,
                        const std::string& fallback) {
  const Angle at = angle_of(cosine);
  const at::Tensor moved = at.angle + margin, sine = moved.sin();
  const at::Tensor one = at::ones_like(cosine);
  AngularTarget target{moved.cos(), sine / at.sine, -sine};
  if (fallback == "hard") {
    const at::Tensor far = at.cosine <= -margin.cos();  // cos(π - m)
    const at::Tensor sine_of_margin = margin.sin();
    target.phi = at::where(far, at.cosine - margin * sine_of_margin, target.phi);
    target.dphi_dcos = at::where(far, one, target.dphi_dcos);
    target.dphi_dmargin =
        at::where(far, -(sine_of_margin + margin * margin.cos()), target.dphi_dmargin);
  } else if (fallback == "easy") {
    const at::Tensor near = at.cosine > 0;
    target.phi = at::where(near, target.phi, at.cosine);
    target.dphi_dcos = at::where(near, target.dphi_dcos, one);
    target.dphi_dmargin = at::where(near, target.dphi_dmargin, at::zeros_like(cosine));
  }
  return target;
}

AngularTarget add_angle(const at::Tensor& cosine, double margin, const std::string& fallback) {
  return add_angle(cosine, at::full_like(cosine, margin), fallback);
}

AngularTarget scale_angle(const at::Tensor& cosine, double multiplier, double margin) {
  const Angle at = angle_of(cosine);
  const at::Tensor moved = multiplier * at.angle + margin, sine = moved.sin();
  return {moved.cos(), multiplier * sine / at.sine, -sine};
}

AngularTarget fall_with_angle(const at::Tensor& cosine, double multiplier) {
  const Angle at = angle_of(cosine);
  const at::Tensor moved = multiplier * at.angle, turns = (moved / M_PI).floor();
  const at::Tensor sign = 1 - 2 * turns.remainder(2);
  return {sign * moved.cos() - 2 * turns, sign * multiplier * moved.sin() / at.sine, {}};
}

MarginOutput angular_output(const AngularTarget& target, const std::string& gradient,
                            double scale) {
  MarginOutput out = plain_output(target.phi, scale);
  if (gradient == "exact") out.dphi_dcos = target.dphi_dcos;
  return out;
}

}  // namespace facetrain
