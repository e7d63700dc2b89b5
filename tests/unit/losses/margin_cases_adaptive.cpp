// The formulas of the margins that follow norms, running statistics or draws (recognition.md
// section 2.1). Running statistics are at their start.
#include <cmath>

#include "core/random.h"
#include "tests/unit/losses/margin_formulas.h"

namespace facetrain::testing {
namespace {

using torch::Tensor;

// AdaCos: s = ln(mean over rows of Σ exp(s0 c)) / cos(min(π / 4, median angle)), s0 = √2 ln(C - 1);
// both within 1 ... 1024.
double start_of_scale(const ReferenceInput& in) {
  return std::max(1.0, std::sqrt(2.0) * std::log(static_cast<double>(in.classes - 1)));
}
Tensor adacos(const ReferenceInput& in, Held& held) {
  const Tensor others = (start_of_scale(in) * in.cosine).exp().masked_fill(is_target(in), 0).sum(1);
  const Tensor s = others.mean().log() / target_of(in).acos().median().clamp_max(M_PI / 4).cos();
  return cross_entropy(held("s", s.clamp(1, 1024)) * in.cosine, in.label);
}
Tensor fixed_adacos(const ReferenceInput& in, Held&) {
  return cross_entropy(start_of_scale(in) * in.cosine, in.label);
}

struct Magnitude {
  bool angle = true, exact = true;
  std::string fallback = "easy";
  double l_a = 10, u_a = 110, l_m = 0.45, u_m = 0.8, weight = 35;
};
Reference magface(Magnitude g) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor z = in.norm.clamp(g.l_a, g.u_a), c = target_of(in);
    const Tensor m = (g.u_m - g.l_m) / (g.u_a - g.l_a) * (z - g.l_a) + g.l_m;
    const Tensor moved = g.angle ? plus_angle(c, m, g.fallback) : c - m;
    return cross_entropy(64 * with_target(in, in.cosine, margined(c, moved, g.exact, held)),
                         in.label) +
           g.weight * (z / (g.u_a * g.u_a) + 1 / z);
  };
}

Reference adaface(double m, double h, double alpha, bool exact) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor z = in.norm.clamp(0.001, 100), c = target_of(in);
    const Tensor mean = (1 - alpha) * 20 + alpha * z.mean();
    const Tensor deviation =
        z.size(0) > 1 ? (1 - alpha) * 100 + alpha * z.std() : torch::full_like(mean, 100);
    const Tensor g = held("g", (h * (z - mean) / (deviation + 1e-3)).clamp(-1, 1));
    const Tensor phi =
        (c.clamp(-1 + 1e-3, 1 - 1e-3).acos() - m * g).clamp(1e-3, M_PI - 1e-3).cos() - (m + m * g);
    return cross_entropy(64 * with_target(in, in.cosine, margined(c, phi, exact, held)), in.label);
  };
}

// Row i draws at position i with seed 0 and view 0; two numbers of 24 bits, Box and Muller.
Tensor normals_of(int64_t rows) {
  std::vector<double> normal;
  for (int64_t i = 0; i < rows; ++i) {
    Random random(random_key(0, i, 0, name_key("elasticface")));
    const double u = std::ldexp(static_cast<double>(random.next() >> 40), -24);
    const double v = std::ldexp(static_cast<double>(random.next() >> 40), -24);
    normal.push_back(std::sqrt(-2 * std::log(1 - u)) * std::cos(2 * M_PI * v));
  }
  return torch::tensor(normal, torch::kDouble);
}
Reference elasticface(bool angle, double mean, double deviation, bool plus) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor c = target_of(in);
    Tensor m = mean + deviation * normals_of(c.size(0));
    if (plus) {  // the place of a row among the cosines, rising, chooses among the margins, falling
      const Tensor place = (c.unsqueeze(1) > c.unsqueeze(0)).sum(1);
      m = std::get<0>(m.sort(0, true)).index_select(0, held("place", place).to(torch::kLong));
    }
    const Tensor phi = angle ? plus_angle(c, m, "none") : c - m;
    return cross_entropy(64 * with_target(in, in.cosine, phi), in.label);
  };
}

}  // namespace

std::vector<MarginCase> adaptive_margin_cases() {
  return {
      registered("adacos", "adacos", "", adacos, true),
      registered("adacos_fixed", "adacos", "dynamic: false", fixed_adacos),
      registered("magface", "magface", "", magface({})),
      registered("magface_hard", "magface",
                 "fallback: hard, l_a: 1, u_a: 51, l_m: 0.45, u_m: 1, penalty: 5",
                 magface({true, true, "hard", 1, 51, 0.45, 1, 5})),
      registered("magface_straight", "magface", "gradient: straight_through",
                 magface({true, false})),
      registered("magface_cos", "magface", "kind: cos, l_m: 0.35, penalty: 150",
                 magface({false, true, "", 10, 110, 0.35, 0.8, 150})),
      registered("adaface", "adaface", "", adaface(0.4, 0.333, 0.01, true), true),
      registered("adaface_swing", "adaface", "margin: 0.3, h: 2, alpha: 0.9",
                 adaface(0.3, 2, 0.9, true), true),
      registered("adaface_straight", "adaface", "gradient: straight_through",
                 adaface(0.4, 0.333, 0.01, false), true),
      registered("elasticface", "elasticface", "", elasticface(true, 0.5, 0.05, false)),
      registered("elasticface_plus", "elasticface", "plus: true, deviation: 0.0175",
                 elasticface(true, 0.5, 0.0175, true), true),
      registered("elasticface_cos", "elasticface", "kind: cos, margin: 0.35",
                 elasticface(false, 0.35, 0.05, false)),
      registered("elasticface_cos_plus", "elasticface",
                 "kind: cos, margin: 0.35, plus: true, deviation: 0.02",
                 elasticface(false, 0.35, 0.02, true), true),
  };
}

}  // namespace facetrain::testing
