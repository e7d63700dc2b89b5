// The formula of every margin, written from its paper (recognition.md section 2.1 holds them side
// by side) with all cosines in memory; and margins that only tests know, one for each thing that
// the interface must carry.
#include <cmath>

#include "tests/unit/losses/classifier_problem.h"

namespace facetrain::testing {
namespace {

using torch::Tensor;

Tensor target_of(const ReferenceInput& in) {
  return in.cosine.gather(1, in.label.unsqueeze(1)).squeeze(1);
}
Tensor is_target(const ReferenceInput& in) {
  return torch::zeros_like(in.cosine, torch::kBool).scatter_(1, in.label.unsqueeze(1), true);
}
// Negatives as they are, or changed, with the target's column replaced by phi.
Tensor with_target(const ReferenceInput& in, const Tensor& negatives, const Tensor& phi) {
  return torch::where(is_target(in), phi.unsqueeze(1), negatives);
}
Tensor cross_entropy(const Tensor& logits, const Tensor& label) {
  return logits.logsumexp(1) - logits.gather(1, label.unsqueeze(1)).squeeze(1);
}

// ---- registered
// -----------------------------------------------------------------------------------------------------

MarginCase registered(const std::string& name, const std::string& yaml, Reference reference) {
  return {name, [yaml] { return Margins::get().create(Config::parse(yaml)); },
          std::move(reference)};
}

Reference arcface_reference(double m, double s, bool exact, const std::string& fallback) {
  return [=](const ReferenceInput& in, Held& held) {
    const Tensor c = target_of(in);
    Tensor phi = (c.acos() + m).cos();
    if (fallback == "hard")
      phi = torch::where(c <= std::cos(M_PI - m), c - m * std::sin(M_PI - m), phi);
    if (fallback == "easy") phi = torch::where(c > 0, phi, c);
    if (!exact) phi = c + held("margin", phi - c);
    return cross_entropy(s * with_target(in, in.cosine, phi), in.label);
  };
}

// ---- margins of the tests
// -------------------------------------------------------------------------------------------

Tensor filled(const Tensor& like, double value) { return torch::full_like(like, value); }

// CurricularFace (Huang 2020, eq. 5-8): negatives harder than the margined target are stretched by
// a moving average t.
class Curricular : public Margin {
 public:
  Curricular() { t_ = register_buffer("t", torch::full({1}, 0.1, torch::kDouble)); }
  MarginRule rule() const override {
    MarginRule rule;
    rule.negative = NegativeRule::kCurricular;
    return rule;
  }
  MarginOutput apply(const MarginInput& in) override {
    const Tensor sine = (1 - in.target.square()).sqrt();
    MarginOutput out;
    out.phi = in.target * std::cos(0.5) - sine * std::sin(0.5);
    out.dphi_dcos = std::cos(0.5) + in.target / sine * std::sin(0.5);
    out.scale = filled(in.target, 64);
    pending_ = 0.01 * in.target.mean() + 0.99 * t_;
    out.p0 = out.phi;
    out.p1 = pending_.expand_as(in.target).contiguous();
    return out;
  }
  void commit() override { t_.copy_(pending_); }
  void discard() override { pending_.reset(); }

 private:
  Tensor t_, pending_;
};
Tensor curricular_reference(const ReferenceInput& in, Held& held) {
  const Tensor c = target_of(in), phi = (c.acos() + 0.5).cos();
  const Tensor t = held("t", 0.01 * c.mean() + 0.99 * 0.1);
  const Tensor hard = held("hard", (in.cosine > phi.unsqueeze(1)).to(torch::kDouble));
  return cross_entropy(
      64 * with_target(in, hard * in.cosine * (t + in.cosine) + (1 - hard) * in.cosine, phi),
      in.label);
}

// MV-AM-Softmax (Wang 2020): negatives above the margined target become w c + w - 1.
class MvSoftmax : public Margin {
 public:
  MarginRule rule() const override {
    MarginRule rule;
    rule.negative = NegativeRule::kAffineAbove;
    rule.negative_a = 1.12;
    rule.negative_b = 0.12;
    return rule;
  }
  MarginOutput apply(const MarginInput& in) override {
    const Tensor above = in.target > 0.35;
    MarginOutput out;
    out.phi = torch::where(above, in.target - 0.35, in.target);
    out.dphi_dcos = filled(in.target, 1);
    out.scale = filled(in.target, 32);
    out.p0 = out.phi;
    return out;
  }
};
Tensor mv_reference(const ReferenceInput& in, Held& held) {
  const Tensor c = target_of(in), phi = torch::where(c > 0.35, c - 0.35, c);
  const Tensor hard = held("hard", (in.cosine > phi.unsqueeze(1)).to(torch::kDouble));
  return cross_entropy(32 * with_target(in, in.cosine + hard * (0.12 * in.cosine + 0.12), phi),
                       in.label);
}

// NPCFace (Zeng 2020): the target's margin grows with the mean of the hard negatives' cosines (the
// pre-pass).
class NpcFace : public Margin {
 public:
  MarginRule rule() const override {
    MarginRule rule;
    rule.negative = NegativeRule::kAffineAbove;
    rule.negative_a = 1.1;
    rule.negative_b = 0.2;
    rule.prepass = Prepass::kSumAbove;
    return rule;
  }
  Tensor prepass_parameter(const MarginInput& in) override {
    return (in.target.acos() + 0.35).cos();
  }
  MarginOutput apply(const MarginInput& in) override {
    const Tensor mean = in.prepass_sum / in.prepass_count.clamp_min(1);
    const Tensor m = 0.4 + 0.2 * mean, sine = (1 - in.target.square()).sqrt(), near = in.target > 0;
    MarginOutput out;
    out.phi = torch::where(near, in.target * m.cos() - sine * m.sin(), in.target);
    out.dphi_dcos = torch::where(near, m.cos() + in.target / sine * m.sin(), filled(m, 1));
    out.scale = filled(m, 32);
    out.p0 = prepass_parameter(in);
    return out;
  }
};
Tensor npc_reference(const ReferenceInput& in, Held& held) {
  const Tensor c = target_of(in);
  const Tensor hard = held(
      "hard",
      ((in.cosine > (c.acos() + 0.35).cos().unsqueeze(1)).logical_and(is_target(in).logical_not()))
          .to(torch::kDouble));
  const Tensor m = held("m", 0.4 + 0.2 * (in.cosine * hard).sum(1) / hard.sum(1).clamp_min(1));
  const Tensor phi = torch::where(c > 0, (c.acos() + m).cos(), c);
  return cross_entropy(32 * with_target(in, in.cosine + hard * (0.1 * in.cosine + 0.2), phi),
                       in.label);
}

// AdaCos (Zhang 2019, eq. 15): the scale follows the batch; its sum of exponentials is a pre-pass.
class AdaCos : public Margin {
 public:
  AdaCos() { scale_ = register_buffer("scale", torch::full({1}, 5.0, torch::kDouble)); }
  MarginRule rule() const override {
    MarginRule rule;
    rule.prepass = Prepass::kLogSumExp;
    return rule;
  }
  Tensor prepass_parameter(const MarginInput& in) override { return scale_.expand_as(in.target); }
  MarginOutput apply(const MarginInput& in) override {
    const Tensor angle = in.target.clamp(-1, 1).acos().median().clamp_max(M_PI / 4);
    pending_ = (in.prepass_sum.exp().mean().log() / angle.cos()).view({1});
    MarginOutput out;
    out.phi = in.target;
    out.dphi_dcos = filled(in.target, 1);
    out.scale = pending_.expand_as(in.target);
    return out;
  }
  void commit() override { scale_.copy_(pending_); }
  void discard() override { pending_.reset(); }

 private:
  Tensor scale_, pending_;
};
Tensor adacos_reference(const ReferenceInput& in, Held& held) {
  const Tensor others = (5 * in.cosine).exp().masked_fill(is_target(in), 0).sum(1);
  const Tensor s =
      held("s", others.mean().log() / target_of(in).acos().median().clamp_max(M_PI / 4).cos());
  return cross_entropy(s * in.cosine, in.label);
}

// MagFace (Meng 2021, eq. 4-6): margin and penalty depend on the feature's norm, differentiated
// through it.
class MagFace : public Margin {
 public:
  MarginOutput apply(const MarginInput& in) override {
    const Tensor z = in.norm.clamp(10, 110),
                 inside = ((in.norm > 10).logical_and(in.norm < 110)).to(in.norm.dtype());
    const double slope = (0.8 - 0.45) / (110 - 10);
    const Tensor m = slope * (z - 10) + 0.45, sine = (1 - in.target.square()).sqrt(),
                 near = in.target > 0;
    const Tensor zero = torch::zeros_like(z);
    MarginOutput out;
    out.phi = torch::where(near, in.target * m.cos() - sine * m.sin(), in.target);
    out.dphi_dcos = torch::where(near, m.cos() + in.target / sine * m.sin(), filled(m, 1));
    out.dphi_dnorm =
        torch::where(near, -(in.target * m.sin() + sine * m.cos()) * slope * inside, zero);
    out.scale = filled(m, 64);
    out.penalty = 35 * (z / (110.0 * 110.0) + 1 / z);
    out.dpenalty_dnorm = 35 * (1 / (110.0 * 110.0) - 1 / z.square()) * inside;
    return out;
  }
};
Tensor magface_reference(const ReferenceInput& in, Held&) {
  const Tensor z = in.norm.clamp(10, 110), m = (0.8 - 0.45) / (110 - 10) * (z - 10) + 0.45,
               c = target_of(in);
  const Tensor phi = torch::where(c > 0, (c.acos() + m).cos(), c);
  return cross_entropy(64 * with_target(in, in.cosine, phi), in.label) +
         35 * (z / (110.0 * 110.0) + 1 / z);
}

// AdaFace (Kim 2022, eq. 13-15): the margin follows the norm's place in running statistics of the
// batch.
class AdaFace : public Margin {
 public:
  AdaFace() {
    mean_ = register_buffer("batch_mean", torch::full({1}, 20.0, torch::kDouble));
    deviation_ = register_buffer("batch_std", torch::full({1}, 100.0, torch::kDouble));
  }
  MarginOutput apply(const MarginInput& in) override {
    const Tensor z = in.norm.clamp(0.001, 100);
    pending_mean_ = 0.99 * mean_ + 0.01 * z.mean();
    pending_deviation_ = 0.99 * deviation_ + 0.01 * z.std();
    const Tensor g = (0.333 * (z - pending_mean_) / (pending_deviation_ + 1e-3)).clamp(-1, 1);
    const Tensor angle = in.target.acos(), moved = angle - 0.4 * g;
    const Tensor inside = (moved > 1e-3).logical_and(moved < M_PI - 1e-3);
    MarginOutput out;
    out.phi = moved.clamp(1e-3, M_PI - 1e-3).cos() - (0.4 + 0.4 * g);
    out.dphi_dcos = torch::where(inside, moved.sin() / angle.sin(), torch::zeros_like(g));
    out.scale = filled(g, 64);
    return out;
  }
  void commit() override {
    mean_.copy_(pending_mean_);
    deviation_.copy_(pending_deviation_);
  }
  void discard() override { pending_mean_.reset(); }

 private:
  Tensor mean_, deviation_, pending_mean_, pending_deviation_;
};
Tensor adaface_reference(const ReferenceInput& in, Held& held) {
  const Tensor z = in.norm.clamp(0.001, 100);
  const Tensor mean = 0.99 * 20 + 0.01 * z.mean(), deviation = 0.99 * 100 + 0.01 * z.std();
  const Tensor g = held("g", (0.333 * (z - mean) / (deviation + 1e-3)).clamp(-1, 1));
  const Tensor phi =
      (target_of(in).acos() - 0.4 * g).clamp(1e-3, M_PI - 1e-3).cos() - (0.4 + 0.4 * g);
  return cross_entropy(64 * with_target(in, in.cosine, phi), in.label);
}

// CosFace with K rows a class, the largest counts (sub-center ArcFace, Deng 2020), margin 0.2.
class SubCentre : public Margin {
 public:
  MarginRule rule() const override {
    MarginRule rule;
    rule.rows_per_class = 3;
    return rule;
  }
  MarginOutput apply(const MarginInput& in) override {
    MarginOutput out;
    out.phi = in.target - 0.2;
    out.dphi_dcos = filled(in.target, 1);
    out.scale = filled(in.target, 16);
    return out;
  }
};
Tensor sub_centre_reference(const ReferenceInput& in, Held&) {
  return cross_entropy(16 * with_target(in, in.cosine, target_of(in) - 0.2), in.label);
}

// SFace (Zhong 2021, eq. 5-8): sums of cosines with detached sigmoid gates, no softmax.
class SFace : public Margin {
 public:
  MarginRule rule() const override {
    MarginRule rule;
    rule.reduction = RowReduction::kGatedSum;
    rule.gate_slope = 8;
    rule.gate_centre = 1.23;
    return rule;
  }
  MarginOutput apply(const MarginInput& in) override {
    const Tensor gate = torch::sigmoid(8 * (in.target.acos() - 0.8));
    MarginOutput out;
    out.phi = gate * in.target;
    out.dphi_dcos = gate;
    out.scale = filled(gate, 64);
    return out;
  }
};
Tensor sface_reference(const ReferenceInput& in, Held& held) {
  const Tensor c = target_of(in);
  const Tensor own = held("own", torch::sigmoid(8 * (c.acos() - 0.8)));
  const Tensor others =
      held("others", torch::sigmoid(-8 * (in.cosine.acos() - 1.23)).masked_fill(is_target(in), 0));
  return -64 * own * c + (64 * others * in.cosine).sum(1);
}

// UniFace's UCE (Zhou 2023): one shared learned bias, softplus of every logit.
class UniFace : public Margin {
 public:
  MarginRule rule() const override {
    MarginRule rule;
    rule.reduction = RowReduction::kSoftplusSum;
    rule.bias = Bias::kShared;
    rule.shared_bias = -3;
    rule.alpha = 0.7;
    rule.beta = 0.9;
    return rule;
  }
  MarginOutput apply(const MarginInput& in) override {
    MarginOutput out;
    out.phi = in.target - 0.4;
    out.dphi_dcos = filled(in.target, 1);
    out.scale = filled(in.target, 16);
    return out;
  }
};
Tensor uniface_reference(const ReferenceInput& in, Held&) {
  const Tensor own = torch::log1p((-(16 * (target_of(in) - 0.4) + in.shared_bias)).exp());
  const Tensor others =
      torch::log1p((16 * in.cosine + in.shared_bias).exp()).masked_fill(is_target(in), 0).sum(1);
  return 0.7 * own + 0.9 * others;
}

// A rule of the negatives with the feature's norm as the scale (SphereFace-R in mode N): `change`
// is the rule's formula.
class NormScaled : public Margin {
 public:
  NormScaled(NegativeRule negative, double a, double b, RowReduction reduction)
      : negative_(negative), a_(a), b_(b), reduction_(reduction) {}
  MarginRule rule() const override {
    MarginRule rule;
    rule.negative = negative_;
    rule.negative_a = a_;
    rule.negative_b = b_;
    rule.reduction = reduction_;
    rule.gate_slope = 6;
    rule.gate_centre = 1.3;
    return rule;
  }
  MarginOutput apply(const MarginInput& in) override {
    MarginOutput out;
    out.phi = in.target - 0.1;
    out.dphi_dcos = filled(in.target, 1);
    out.scale = in.norm.sqrt();
    out.dscale_dnorm = 0.5 / in.norm.sqrt();
    out.p0 = filled(in.target, 0.05);
    out.p1 = filled(in.target, 0.3);
    return out;
  }

 private:
  NegativeRule negative_;
  double a_, b_;
  RowReduction reduction_;
};
using Change = std::function<Tensor(const Tensor&, Held&)>;
MarginCase norm_scaled(const std::string& name, NegativeRule rule, double a, double b,
                       RowReduction reduction, Change change) {
  return {name, [=] { return std::make_shared<NormScaled>(rule, a, b, reduction); },
          [=](const ReferenceInput& in, Held& held) {
            const Tensor v = change(in.cosine, held), s = in.norm.sqrt().unsqueeze(1);
            const Tensor logits = s * with_target(in, v, target_of(in) - 0.1);
            if (reduction == RowReduction::kSoftmax) return cross_entropy(logits, in.label);
            const Tensor own = logits.gather(1, in.label.unsqueeze(1)).squeeze(1);
            if (reduction == RowReduction::kSoftplusSum)
              return torch::log1p((-own).exp()) +
                     torch::log1p(logits.exp()).masked_fill(is_target(in), 0).sum(1);
            const Tensor gate = held(
                "gate", torch::sigmoid(6 * (1.3 - in.cosine.acos())).masked_fill(is_target(in), 0));
            return -own + (gate * logits).sum(1);
          }};
}

Tensor above(const Tensor& c) { return (c > 0.05).to(torch::kDouble); }

std::vector<MarginCase> rule_cases() {
  std::vector<MarginCase> all;
  const std::vector<std::pair<std::string, RowReduction>> reductions{
      {"softmax", RowReduction::kSoftmax},
      {"softplus", RowReduction::kSoftplusSum},
      {"gated", RowReduction::kGatedSum}};
  for (const auto& [name, reduction] : reductions) {
    const auto add = [&](const std::string& rule_name, NegativeRule rule, double a, double b,
                         Change change) {
      all.push_back(
          norm_scaled("rule_" + rule_name + "_" + name, rule, a, b, reduction, std::move(change)));
    };
    add("none", NegativeRule::kNone, 0, 0, [](const Tensor& c, Held&) { return c; });
    add("affine", NegativeRule::kAffineAbove, 1.2, 0.2, [](const Tensor& c, Held& held) {
      const Tensor h = held("h", above(c));
      return h * (1.2 * c + 0.2) + (1 - h) * c;
    });
    add("filter", NegativeRule::kAffineAbove, 0, 0,
        [](const Tensor& c, Held& held) { return (1 - held("h", above(c))) * c; });
    add("curricular", NegativeRule::kCurricular, 0, 0, [](const Tensor& c, Held& held) {
      const Tensor h = held("h", above(c));
      return h * c * (0.3 + c) + (1 - h) * c;
    });
    add("gaussian", NegativeRule::kGaussian, 1.2, 2, [](const Tensor& c, Held& held) {
      const Tensor t = held("t", 1.2 * (-(c - 0.05).square() / 2).exp());
      return t * c + t - 1;
    });
    add("circle", NegativeRule::kCircle, 0.25, 0,
        [](const Tensor& c, Held& held) { return held("w", torch::relu(c + 0.25)) * (c - 0.25); });
    add("angle", NegativeRule::kAngleDivide, 1.5, 0,
        [](const Tensor& c, Held& held) { return c + held("d", (c.acos() / 1.5).cos() - c); });
    add("power", NegativeRule::kPower, 3, 0.4, [](const Tensor& c, Held& held) {
      return c + held("d", 2 * ((c + 1) / 2).pow(3) - 1 + 0.4 - c);
    });
  }
  return all;
}

template <class T>
MarginCase of(const std::string& name, Reference reference, bool batch_statistics = false) {
  return {name, [] { return std::make_shared<T>(); }, std::move(reference), batch_statistics};
}

}  // namespace

std::vector<MarginCase> registered_cases() {
  const auto cosface = [](const ReferenceInput& in, Held&) {
    return cross_entropy(64 * with_target(in, in.cosine, target_of(in) - 0.4), in.label);
  };
  const auto softmax = [](const ReferenceInput& in, Held&) {
    return cross_entropy(in.cosine, in.label);
  };
  return {
      registered("arcface", "{name: arcface}", arcface_reference(0.5, 64, true, "hard")),
      registered("arcface_easy", "{name: arcface, margin: 0.3, scale: 30, fallback: easy}",
                 arcface_reference(0.3, 30, true, "easy")),
      registered("arcface_none", "{name: arcface, fallback: none}",
                 arcface_reference(0.5, 64, true, "none")),
      registered("arcface_straight", "{name: arcface, gradient: straight_through}",
                 arcface_reference(0.5, 64, false, "hard")),
      registered("cosface", "{name: cosface}", cosface),
      registered("softmax", "{name: softmax}", softmax),
  };
}

std::vector<MarginCase> interface_cases() {
  std::vector<MarginCase> all{of<Curricular>("curricularface", curricular_reference, true),
                              of<MvSoftmax>("mv_softmax", mv_reference),
                              of<NpcFace>("npcface", npc_reference),
                              of<AdaCos>("adacos", adacos_reference, true),
                              of<MagFace>("magface", magface_reference),
                              of<AdaFace>("adaface", adaface_reference, true),
                              of<SubCentre>("sub_centre", sub_centre_reference),
                              of<SFace>("sface", sface_reference),
                              of<UniFace>("uniface", uniface_reference)};
  for (const MarginCase& rule : rule_cases()) all.push_back(rule);
  return all;
}

}  // namespace facetrain::testing
