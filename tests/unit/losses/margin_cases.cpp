// Every case of the conformance suite: the registered margins, put together from their families,
// and a margin that only tests know, which takes every rule of the negatives through every
// reduction.
#include <cmath>

#include "tests/unit/losses/margin_formulas.h"

namespace facetrain::testing {
namespace {

using torch::Tensor;

Tensor filled(const Tensor& like, double value) { return torch::full_like(like, value); }

// A rule of the negatives with a scale that grows with the feature's norm z: sqrt(1 + z). `change`
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
    out.scale = (1 + in.norm).sqrt();
    out.dscale_dnorm = 0.5 / out.scale;
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
            const Tensor v = change(in.cosine, held), s = (1 + in.norm).sqrt().unsqueeze(1);
            const Tensor logits = s * with_target(in, v, target_of(in) - 0.1);
            if (reduction == RowReduction::kSoftmax) return cross_entropy(logits, in.label);
            const Tensor own = logits.gather(1, in.label.unsqueeze(1)).squeeze(1);
            if (reduction == RowReduction::kSoftplusSum)
              return torch::log1p((-own).exp()) +
                     torch::log1p(logits.exp()).masked_fill(is_target(in), 0).sum(1);
            const Tensor gate = held(
                "gate", torch::sigmoid(6 * (1.3 - in.cosine.acos())).masked_fill(is_target(in), 0));
            return -own + (gate * logits).sum(1);
          },
          false, ""};
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

}  // namespace

std::vector<MarginCase> registered_cases() {
  std::vector<MarginCase> all;
  for (const auto& family :
       {fixed_margin_cases(), adaptive_margin_cases(), negative_rule_cases(), sum_of_terms_cases()})
    all.insert(all.end(), family.begin(), family.end());
  return all;
}

std::vector<MarginCase> interface_cases() { return rule_cases(); }

}  // namespace facetrain::testing
