// What the references of the margins share: pieces of formulas with all cosines in memory, and how
// a case is made from YAML. Nothing here is the margins' own code.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "tests/unit/losses/classifier_problem.h"

namespace facetrain::testing {

inline torch::Tensor target_of(const ReferenceInput& in) {
  return in.cosine.gather(1, in.label.unsqueeze(1)).squeeze(1);
}
inline torch::Tensor is_target(const ReferenceInput& in) {
  return torch::zeros_like(in.cosine, torch::kBool).scatter_(1, in.label.unsqueeze(1), true);
}
// Negatives as they are, or changed, with the target's column replaced by phi.
inline torch::Tensor with_target(const ReferenceInput& in, const torch::Tensor& negatives,
                                 const torch::Tensor& phi) {
  return torch::where(is_target(in), phi.unsqueeze(1), negatives);
}
inline torch::Tensor cross_entropy(const torch::Tensor& logits, const torch::Tensor& label) {
  return logits.logsumexp(1) - logits.gather(1, label.unsqueeze(1)).squeeze(1);
}
inline torch::Tensor as_number(const torch::Tensor& condition) {
  return condition.to(torch::kDouble);
}

// cos(θ + m), m a number or [N], and what the published codes do beyond π.
template <class Number>
torch::Tensor plus_angle(const torch::Tensor& c, const Number& m, const std::string& fallback) {
  const torch::Tensor margin = m + torch::zeros_like(c).detach();
  const torch::Tensor phi = (c.acos() + margin).cos();
  if (fallback == "hard")
    return torch::where(c <= (M_PI - margin).cos(), c - margin * (M_PI - margin).sin(), phi);
  return fallback == "easy" ? torch::where(c > 0, phi, c) : phi;
}
// φ as it is, or with derivative 1 (straight_through).
inline torch::Tensor margined(const torch::Tensor& c, const torch::Tensor& phi, bool exact,
                              Held& held) {
  return exact ? phi : c + held("margin", phi - c);
}

// A registered margin from YAML; `label` names the variant: "arcface_easy".
inline MarginCase registered(const std::string& label, const std::string& margin,
                             const std::string& options, Reference reference,
                             bool batch_statistics = false) {
  const std::string yaml = "{name: " + margin + (options.empty() ? "" : ", " + options) + "}";
  return {label, [yaml] { return Margins::get().create(Config::parse(yaml)); },
          std::move(reference), batch_statistics, margin};
}

// The families; registered_cases() puts them together.
std::vector<MarginCase> fixed_margin_cases();     // the target's margin depends on its cosine alone
std::vector<MarginCase> adaptive_margin_cases();  // on norms, statistics, or draws
std::vector<MarginCase> negative_rule_cases();    // margins that change the negatives too
std::vector<MarginCase> sum_of_terms_cases();     // no soft-max

}  // namespace facetrain::testing
