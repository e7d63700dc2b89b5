// The formulas of the margins that depend on the target's cosine alone (recognition.md section 2.1
// holds them side by side).
#include <cmath>

#include "tests/unit/losses/margin_formulas.h"

namespace facetrain::testing {
namespace {

using torch::Tensor;

Reference additive(double m, double s) {
  return [=](const ReferenceInput& in, Held&) {
    return cross_entropy(s * with_target(in, in.cosine, target_of(in) - m), in.label);
  };
}

Reference arcface(double m, double s, bool exact, const std::string& fallback) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor c = target_of(in);
    const Tensor phi = margined(c, plus_angle(c, m, fallback), exact, held);
    return cross_entropy(s * with_target(in, in.cosine, phi), in.label);
  };
}

Reference combined(double m1, double m2, double m3, double s, bool exact) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor c = target_of(in);
    const Tensor phi = margined(c, (m1 * c.acos() + m2).cos() - m3, exact, held);
    return cross_entropy(s * with_target(in, in.cosine, phi), in.label);
  };
}

// ψ(θ) = (-1)^k cos(m θ) - 2 k
Tensor psi(const Tensor& c, double m) {
  const Tensor angle = m * c.acos(), k = (angle / M_PI).detach().floor();
  return torch::pow(-torch::ones_like(k), k) * angle.cos() - 2 * k;
}

// s = 0: the feature's norm.
Reference sphereface(double m, double s, double start, double end, bool exact) {
  return [=](const ReferenceInput& in, Held& held) {
    const double blend = std::max(end, start / (1 + 0.12 * static_cast<double>(in.step)));
    const Tensor c = target_of(in);
    const Tensor phi = margined(c, (blend * c + psi(c, m)) / (1 + blend), exact, held);
    const Tensor scale = s > 0 ? torch::full_like(in.norm, s) : in.norm;
    return cross_entropy(scale.unsqueeze(1) * with_target(in, in.cosine, phi), in.label);
  };
}

struct Revived {
  std::string shape, norm;
  bool exact = false;
  double m = 1.5, s = 30, soft = 0.01, weight = 50;
};
Reference sphereface_r(Revived r) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor c = target_of(in);
    Tensor phi = c, negatives = in.cosine;
    if (r.shape == "v0") phi = margined(c, psi(c, r.m), r.exact, held);
    if (r.shape == "v1") phi = margined(c, (r.m * c.acos()).clamp_max(M_PI).cos(), r.exact, held);
    if (r.shape == "v2")
      negatives = in.cosine + held("negatives", (in.cosine.acos() / r.m).cos() - in.cosine);
    const Tensor scale = r.norm == "hard" ? torch::full_like(in.norm, r.s) : in.norm;
    Tensor loss = cross_entropy(scale.unsqueeze(1) * with_target(in, negatives, phi), in.label);
    if (r.norm != "none") loss = r.weight / r.s * loss;
    if (r.norm == "soft") loss = loss + r.soft * (in.norm - r.s).abs();
    return loss;
  };
}

}  // namespace

std::vector<MarginCase> fixed_margin_cases() {
  const auto softmax = [](const ReferenceInput& in, Held&) {
    return cross_entropy(in.cosine, in.label);
  };
  return {
      registered("softmax", "softmax", "", softmax),
      registered("normface", "normface", "", additive(0, 64)),
      registered("normface_scale", "normface", "scale: 20", additive(0, 20)),
      registered("cosface", "cosface", "", additive(0.4, 64)),
      registered("am_softmax", "am_softmax", "", additive(0.35, 30)),
      registered("arcface", "arcface", "", arcface(0.5, 64, true, "hard")),
      registered("arcface_easy", "arcface", "margin: 0.3, scale: 30, fallback: easy",
                 arcface(0.3, 30, true, "easy")),
      registered("arcface_none", "arcface", "fallback: none", arcface(0.5, 64, true, "none")),
      registered("arcface_straight", "arcface", "gradient: straight_through",
                 arcface(0.5, 64, false, "hard")),
      registered("subcenter_arcface", "subcenter_arcface", "", arcface(0.5, 64, true, "hard")),
      registered("subcenter_arcface_two", "subcenter_arcface",
                 "centers: 2, scale: 16, gradient: straight_through, fallback: none",
                 arcface(0.5, 16, false, "none")),
      registered("combined", "combined", "", combined(1, 0.3, 0.2, 64, true)),
      registered("combined_angle", "combined", "m1: 1.35, m2: 0.1, m3: 0.05, scale: 30",
                 combined(1.35, 0.1, 0.05, 30, true)),
      registered("combined_straight", "combined", "m1: 0.9, gradient: straight_through",
                 combined(0.9, 0.3, 0.2, 64, false)),
      registered("sphereface", "sphereface", "", sphereface(4, 0, 1000, 5, true)),
      registered("sphereface_late", "sphereface", "blend_start: 0", sphereface(4, 0, 0, 5, true)),
      registered(
          "sphereface_fixed", "sphereface",
          "norm: hard, margin: 1.7, blend_start: 0, blend_end: 0, gradient: straight_through",
          sphereface(1.7, 30, 0, 0, false)),
      registered("sphereface_r", "sphereface_r", "", sphereface_r({"v1", "hard"})),
      registered("sphereface_r_exact", "sphereface_r", "gradient: exact, margin: 1.7",
                 sphereface_r({"v1", "hard", true, 1.7})),
      registered("sphereface_r_v0", "sphereface_r", "shape: v0, norm: none",
                 sphereface_r({"v0", "none"})),
      registered("sphereface_r_v0_exact", "sphereface_r", "shape: v0, margin: 3, gradient: exact",
                 sphereface_r({"v0", "hard", true, 3})),
      registered("sphereface_r_v2", "sphereface_r", "shape: v2, norm: soft, soft_weight: 0.05",
                 sphereface_r({"v2", "soft", false, 1.5, 30, 0.05})),
      registered("sphereface_r_v2_hard", "sphereface_r",
                 "shape: v2, margin: 2, scale: 20, loss_weight: 7",
                 sphereface_r({"v2", "hard", false, 2, 20, 0.01, 7})),
  };
}

}  // namespace facetrain::testing
