// Circle loss with class rows: every cosine weighs by how far it is from its optimum. Sun et al.
// 2020, arXiv:2002.10857.
//
// Target γ relu(1 + m - c) (c - (1 - m)), negatives γ relu(c + m) (c - m); the weights relu(...)
// are constants of the derivative.
#include "losses/margin.h"

namespace facetrain {
namespace {

struct CircleOptions {
  double margin = 0.25;
  Scheduled scale = 256;
  void fields(auto& f) {
    f("margin", margin, range(-1, 1), "relaxation m: optima 1 + m and -m, bounds 1 - m and m");
    f("scale", scale, range(1, 1024), "γ, multiplies the weighted cosines; a number or a schedule");
  }
};

class Circle : public Margin {
 public:
  explicit Circle(const CircleOptions& options) : options_(options) {}
  MarginRule rule() const override {
    MarginRule rule;
    rule.negative = NegativeRule::kCircle;
    rule.negative_a = options_.margin;
    return rule;
  }
  MarginOutput apply(const MarginInput& input) override {
    const double m = options_.margin;
    const at::Tensor weight = (1 + m - input.target).relu();
    MarginOutput out = plain_output(weight * (input.target - (1 - m)), input.now(options_.scale));
    out.dphi_dcos = weight;
    return out;
  }

 private:
  CircleOptions options_;
};

const bool registered = Margins::get().add<Circle, CircleOptions>(
    "circle", "self-paced weights of all cosines (Sun 2020)");

}  // namespace
}  // namespace facetrain
