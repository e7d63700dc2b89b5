// The arithmetic of margins in the angle, shared by all of them: cos(k θ + m), its derivatives, and
// what happens beyond π.
//
// A margin's derivative is a stated choice. `exact` is the formula's. `straight_through` takes the
// whole correction φ - c for a constant: φ has derivative 1 by the cosine and 0 by whatever the
// margin depends on.
#pragma once

#include <string>

#include "losses/margin.h"

namespace facetrain {

// The options, declared alike by every margin that has them.
void gradient_field(auto& f, std::string& gradient) {
  f("gradient", gradient, one_of("exact", "straight_through"),
    "derivative of the margin: exact, or taken as 1 (as arcface_torch does)");
}
void fallback_field(auto& f, std::string& fallback) {
  f("fallback", fallback, one_of("hard", "easy", "none"),
    "hard: cos - m sin(m) where angle + margin > pi; easy: margin only below 90 degrees; none");
}

// A cosine and its angle. The sine is kept at 1e-6 or more: the exact derivatives are infinite at
// cosines of ±1, where training needs them least.
struct Angle {
  at::Tensor cosine, angle, sine;  // [B]; the cosine within ±1
};
Angle angle_of(const at::Tensor& cosine);

// φ [B] of the target, dφ/dcos and dφ/dm.
struct AngularTarget {
  at::Tensor phi, dphi_dcos, dphi_dmargin;
};

// cos(θ + m) for margins m [B], radians. `fallback` where θ + m > π and the cosine would rise
// again: hard goes on with c - m sin(m) (sin(π - m) = sin(m)), easy gives no margin to angles above
// 90 degrees, none lets it rise.
AngularTarget add_angle(const at::Tensor& cosine, const at::Tensor& margin,
                        const std::string& fallback);
// The same margin for all rows.
AngularTarget add_angle(const at::Tensor& cosine, double margin, const std::string& fallback);

// cos(k θ + m).
AngularTarget scale_angle(const at::Tensor& cosine, double multiplier, double margin);

// SphereFace's ψ = (-1)^j cos(k θ) - 2 j, j = ⌊k θ / π⌋: cos(k θ) made to fall from 0 to π.
AngularTarget fall_with_angle(const at::Tensor& cosine, double multiplier);

// An output with the target's φ and derivative as `gradient` says.
MarginOutput angular_output(const AngularTarget& target, const std::string& gradient, double scale);

}  // namespace facetrain
