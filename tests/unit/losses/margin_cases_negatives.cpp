// The formulas of the margins that change the negatives too, and of those without a soft-max
// (recognition.md section 2.1). Running statistics are at their start.
#include <cmath>

#include "tests/unit/losses/margin_formulas.h"

namespace facetrain::testing {
namespace {

using torch::Tensor;

// CurricularFace: negatives above cos(θ_y + m) become c (t + c), t = α mean(c_y) from 0.
Reference curricularface(double alpha, const std::string& fallback, bool exact) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor c = target_of(in), t = held("t", alpha * c.mean());
    const Tensor phi = margined(c, plus_angle(c, 0.5, fallback), exact, held);
    const Tensor limit = (c.acos() + 0.5).cos().unsqueeze(1);
    const Tensor hard = held("hard", as_number(in.cosine > limit));
    const Tensor stretched = hard * in.cosine * (t + in.cosine) + (1 - hard) * in.cosine;
    return cross_entropy(64 * with_target(in, stretched, phi), in.label);
  };
}

// MV-Softmax: negatives above the margined target become w c + w - 1.
Reference mv_softmax(bool angle, double m, double w, double s, bool exact) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor c = target_of(in);
    const Tensor moved = angle ? (c.acos() + m).cos() : c - m;
    const Tensor phi = angle ? margined(c, torch::where(c > 0, moved, c), exact, held)
                             : torch::where(c > m, moved, c);
    const Tensor hard = held("hard", as_number(in.cosine > moved.unsqueeze(1)));
    const Tensor heavier = in.cosine + hard * ((w - 1) * in.cosine + w - 1);
    return cross_entropy(s * with_target(in, heavier, phi), in.label);
  };
}

// ArcNegFace: t c + t - 1, t = α exp(-(c - φ)² / σ).
Reference arcnegface(double alpha, double sigma, bool exact) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor c = target_of(in);
    const Tensor phi = margined(c, plus_angle(c, 0.5, "hard"), exact, held);
    const Tensor t = held("t", alpha * (-(in.cosine - phi.unsqueeze(1)).square() / sigma).exp());
    return cross_entropy(64 * with_target(in, t * in.cosine + t - 1, phi), in.label);
  };
}

// NPCFace: the margin grows with the mean of the hard negatives, which become t c + a.
Reference npcface(double m, double s, bool exact) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor c = target_of(in), limit = (c.acos() + m).cos().unsqueeze(1);
    const Tensor hard =
        held("hard", as_number((in.cosine > limit).logical_and(is_target(in).logical_not())));
    const Tensor mean = (in.cosine * hard).sum(1) / hard.sum(1).clamp_min(1);
    const Tensor phi = margined(c, plus_angle(c, held("m", 0.4 + 0.2 * mean), "easy"), exact, held);
    return cross_entropy(s * with_target(in, in.cosine + hard * (0.1 * in.cosine + 0.2), phi),
                         in.label);
  };
}

// Circle: γ α_p (c_y - 1 + m) and γ α_n (c_j - m), α_p = relu(1 + m - c_y), α_n = relu(c_j + m).
Reference circle(double m, double gamma) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor c = target_of(in);
    const Tensor own = held("own", (1 + m - c).relu()),
                 others = held("others", (in.cosine + m).relu());
    return cross_entropy(gamma * with_target(in, others * (in.cosine - m), own * (c - 1 + m)),
                         in.label);
  };
}

// SFace: -s r_a c_y + Σ s r_b c_j.
Reference sface(double k, double a, double b, double s) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor c = target_of(in);
    const Tensor own = held("own", torch::sigmoid(k * (c.acos() - a)));
    const Tensor others =
        held("others", torch::sigmoid(-k * (in.cosine.acos() - b)).masked_fill(is_target(in), 0));
    return -s * own * c + (s * others * in.cosine).sum(1);
  };
}

// UniFace: softplus of every logit around one bias; the problem's shared bias is -b.
Reference uniface(double m, double s, double l) {
  return [=](const ReferenceInput& in, Held&) {
    const Tensor b = -in.shared_bias;
    const Tensor own = torch::log1p((-(s * (target_of(in) - m) - b)).exp());
    const Tensor others =
        torch::log1p((s * in.cosine - b).exp()).masked_fill(is_target(in), 0).sum(1);
    return own + l * others;
  };
}

// SphereFace2: binary cross-entropies of r (g(c) ∓ m) + b, the adjustment g(c) - c detached.
Reference sphereface2(double alpha, double r, double m, double t, double weight) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor g = in.cosine + held("g", 2 * ((in.cosine + 1) / 2).pow(t) - 1 - in.cosine);
    const Tensor own = g.gather(1, in.label.unsqueeze(1)).squeeze(1);
    const Tensor positive = torch::log1p((-(r * (own - m) + in.shared_bias)).exp());
    const Tensor negative = torch::log1p((r * (g + m) + in.shared_bias).exp());
    return weight / r *
           (alpha * positive + (1 - alpha) * negative.masked_fill(is_target(in), 0).sum(1));
  };
}

}  // namespace

std::vector<MarginCase> negative_rule_cases() {
  return {
      registered("curricularface", "curricularface", "", curricularface(0.01, "hard", true), true),
      registered("curricularface_easy", "curricularface",
                 "alpha: 0.9, fallback: easy, gradient: straight_through",
                 curricularface(0.9, "easy", false), true),
      registered("mv_softmax", "mv_softmax", "", mv_softmax(false, 0.35, 1.12, 32, true)),
      registered("mv_softmax_arc", "mv_softmax", "kind: arc, margin: 0.5, weight: 1.3, scale: 20",
                 mv_softmax(true, 0.5, 1.3, 20, true)),
      registered("mv_softmax_straight", "mv_softmax", "kind: arc, gradient: straight_through",
                 mv_softmax(true, 0.35, 1.12, 32, false)),
      registered("arcnegface", "arcnegface", "", arcnegface(1.2, 2, true)),
      registered("arcnegface_straight", "arcnegface",
                 "alpha: 1, sigma: 0.5, gradient: straight_through", arcnegface(1, 0.5, false)),
      registered("npcface", "npcface", "", npcface(0.5, 64, true)),
      registered("npcface_straight", "npcface",
                 "margin: 0.35, scale: 32, gradient: straight_through", npcface(0.35, 32, false)),
      registered("circle", "circle", "", circle(0.25, 256)),
      registered("circle_wide", "circle", "margin: 0.4, scale: 30", circle(0.4, 30)),
  };
}

std::vector<MarginCase> sum_of_terms_cases() {
  return {
      registered("sface", "sface", "", sface(80, 0.8, 1.23, 64)),
      registered("sface_soft", "sface", "slope: 8, a: 0.87, b: 1.2, scale: 30",
                 sface(8, 0.87, 1.2, 30)),
      registered("uniface", "uniface", "", uniface(0.4, 64, 1)),
      registered("uniface_weighted", "uniface", "margin: 0.1, scale: 16, weight: 0.9",
                 uniface(0.1, 16, 0.9)),
      registered("sphereface2", "sphereface2", "", sphereface2(0.7, 40, 0.4, 3, 50)),
      registered("sphereface2_ms1m", "sphereface2",
                 "alpha: 0.8, scale: 64, margin: 0.5, power: 2, loss_weight: 10",
                 sphereface2(0.8, 64, 0.5, 2, 10)),
  };
}

}  // namespace facetrain::testing
