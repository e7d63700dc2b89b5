#include "tests/unit/losses/option_cases.h"

#include <cmath>

#include "tests/unit/losses/margin_formulas.h"

namespace facetrain::testing {
namespace {

using torch::Tensor;

// What a margin makes of the cosines.
struct Row {
  Tensor logits, scale, penalty;  // [N, C], [N], [N] or undefined
};
using RowFormula = std::function<Row(const ReferenceInput&, Held&)>;

// ---- the options, from their formulas -----------------------------------------------------------

Tensor filtered(const ReferenceInput& in, double above, Held& held) {
  if (above == 0) return in.cosine;
  const Tensor dropped =
      held("dropped", as_number((in.cosine > above).logical_and(is_target(in).logical_not())));
  return in.cosine * (1 - dropped);
}

// [M] cosines of the pairs that the box-and-whisker filter keeps.
Tensor pair_cosines(const ReferenceInput& in, double whisker, Held& held) {
  const Tensor different = in.label.unsqueeze(1).ne(in.label.unsqueeze(0)).triu(1);
  const Tensor all = in.features.mm(in.features.t()).masked_select(different);
  if (all.numel() == 0) return all;
  const Tensor quartiles =
      torch::quantile(all.detach(), torch::tensor({0.25, 0.75}, all.options()));
  const Tensor reach = whisker * (quartiles[1] - quartiles[0]);
  const Tensor kept =
      held("kept", (all >= quartiles[0] - reach).logical_and(all <= quartiles[1] + reach));
  return all.masked_select(kept);
}

Tensor loss_of(const OptionValues& o, const RowFormula& formula, ReferenceInput in, Held& held) {
  in.cosine = filtered(in, o.filter, held);
  const Row row = formula(in, held);
  const Tensor own = row.logits.gather(1, in.label.unsqueeze(1)).squeeze(1);
  Tensor all = row.logits;
  if (o.whisker > 0) {
    const Tensor pairs = pair_cosines(in, o.whisker, held);
    all = torch::cat({all, row.scale.unsqueeze(1) * pairs.unsqueeze(0)}, 1);
  }
  const Tensor log_z = all.logsumexp(1);
  const double classes = static_cast<double>(row.logits.size(1));
  Tensor loss = log_z - (1 - o.smoothing) * own - o.smoothing / classes * row.logits.sum(1);
  if (o.gamma > 0) loss = (-torch::expm1(own - log_z)).pow(o.gamma) * loss;
  return row.penalty.defined() ? loss + row.penalty : loss;
}

// ---- the margins --------------------------------------------------------------------------------

Row cosface_row(const ReferenceInput& in, Held&) {
  const Tensor scale = torch::full_like(in.norm, 16);
  return {16 * with_target(in, in.cosine, target_of(in) - 0.3), scale, {}};
}
Row arcface_row(const ReferenceInput& in, Held&) {
  const Tensor scale = torch::full_like(in.norm, 16);
  return {16 * with_target(in, in.cosine, plus_angle(target_of(in), 0.5, "hard")), scale, {}};
}
Row softmax_row(const ReferenceInput& in, Held&) {
  return {in.cosine, torch::ones_like(in.norm), {}};
}

// Two rows a class, negatives stretched as CurricularFace does, a scale that follows the norm, and
// a penalty on it.
class Norms : public Margin {
 public:
  MarginRule rule() const override {
    MarginRule rule;
    rule.rows_per_class = 2;
    rule.negative = NegativeRule::kCurricular;
    return rule;
  }
  MarginOutput apply(const MarginInput& in) override {
    MarginOutput out;
    out.phi = in.target - 0.1;
    out.dphi_dcos = torch::ones_like(in.target);
    out.scale = in.norm.sqrt();
    out.dscale_dnorm = 0.5 / in.norm.sqrt();
    out.penalty = 0.01 * in.norm;
    out.dpenalty_dnorm = torch::full_like(in.norm, 0.01);
    out.p0 = out.phi;
    out.p1 = torch::full_like(in.norm, 0.2);
    return out;
  }
};
Row norms_row(const ReferenceInput& in, Held& held) {
  const Tensor phi = target_of(in) - 0.1, scale = in.norm.sqrt();
  const Tensor hard = held("hard", as_number(in.cosine > phi.unsqueeze(1)));
  const Tensor changed = hard * in.cosine * (0.2 + in.cosine) + (1 - hard) * in.cosine;
  return {scale.unsqueeze(1) * with_target(in, changed, phi), scale, 0.01 * in.norm};
}

// A scale that a pre-pass over the negatives decides, as AdaCos does, and its growth with the norm.
class Measured : public Margin {
 public:
  MarginRule rule() const override {
    MarginRule rule;
    rule.prepass = Prepass::kLogSumExp;
    return rule;
  }
  Tensor prepass_parameter(const MarginInput& in) override {
    return torch::full_like(in.target, 4);
  }
  MarginOutput apply(const MarginInput& in) override {
    const Tensor factor = 2 + in.prepass_sum.exp().mean().log1p();
    MarginOutput out;
    out.phi = in.target - 0.2;
    out.dphi_dcos = torch::ones_like(in.target);
    out.scale = factor * in.norm.log1p();
    out.dscale_dnorm = factor / (1 + in.norm);
    return out;
  }
};
Row measured_row(const ReferenceInput& in, Held& held) {
  const Tensor others = (4 * in.cosine).exp().masked_fill(is_target(in), 0).sum(1);
  const Tensor scale = held("factor", 2 + others.mean().log1p()) * in.norm.log1p();
  return {scale.unsqueeze(1) * with_target(in, in.cosine, target_of(in) - 0.2), scale, {}};
}

struct Base {
  std::string name;
  std::function<std::shared_ptr<Margin>()> make;
  RowFormula formula;
  bool batch_statistics = false;
};
std::function<std::shared_ptr<Margin>()> from_yaml(const std::string& yaml) {
  return [yaml] { return Margins::get().create(Config::parse(yaml)); };
}

OptionCase make_case(const Base& base, const std::string& options_name, const OptionValues& o) {
  const auto reference = [o, formula = base.formula](const ReferenceInput& in, Held& held) {
    return loss_of(o, formula, in, held);
  };
  return {o,
          {base.name + "_" + options_name, base.make, reference,
           base.batch_statistics || o.whisker > 0, ""}};
}

}  // namespace

void OptionValues::set(ClassifierOptions& options) const {
  options.label_smoothing = smoothing;
  options.focal_gamma = gamma;
  options.filter_above = filter;
  options.unpg_whisker = whisker;
}

std::vector<OptionCase> option_cases() {
  const std::vector<std::pair<std::string, OptionValues>> values{
      {"smoothing", {0.1, 0, 0, 0}},       {"focal", {0, 2, 0, 0}},
      {"filter", {0, 0, 0.3, 0}},          {"unpg", {0, 0, 0, 0.3}},
      {"smooth_focal", {0.2, 1.5, 0, 0}},  {"all", {0.1, 2, 0.3, 0.3}},
      {"all_but_filter", {0.1, 2, 0, 0.3}}};
  const std::vector<Base> bases{
      {"cosface", from_yaml("{name: cosface, margin: 0.3, scale: 16}"), cosface_row},
      {"arcface", from_yaml("{name: arcface, scale: 16}"), arcface_row},
      {"softmax", from_yaml("{name: softmax}"), softmax_row},
      {"norms", [] { return std::make_shared<Norms>(); }, norms_row},
      {"measured", [] { return std::make_shared<Measured>(); }, measured_row, true}};
  std::vector<OptionCase> all;
  for (const Base& base : bases)
    for (const auto& [name, o] : values) {
      const MarginRule rule = base.make()->rule();
      if (!rule.normalise && (o.filter > 0 || o.whisker > 0)) continue;
      if (rule.negative != NegativeRule::kNone && o.filter > 0) continue;
      all.push_back(make_case(base, name, o));
    }
  return all;
}

OptionCase option_case(const std::string& name) {
  for (const OptionCase& c : option_cases())
    if (c.margin.name == name) return c;
  FT_FAIL("no option case {}", name);
}

Problem with_options(Problem problem, const OptionCase& c) {
  problem.configure = [o = c.options](ClassifierOptions& options) { o.set(options); };
  return problem;
}

}  // namespace facetrain::testing
