// CurricularFace: ArcFace whose hard negatives, those above the margined target, are stretched by a
// running mean t of the target cosines. Huang et al. 2020, arXiv:2004.00288, eq. 5 to 8.
//
// t is updated before it is used, as the authors' code does (t <- α mean(c_y) + (1 - α) t).
#include "losses/angular_margin.h"
#include "losses/running_value.h"

namespace facetrain {
namespace {

struct CurricularFaceOptions {
  Scheduled margin = 0.5, scale = 64;
  double alpha = 0.01;
  std::string gradient = "exact", fallback = "hard";
  void fields(auto& f) {
    f("margin", margin, range(0, 1.5707),
      "added to the target's angle, radians; a number or a schedule");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
    f("alpha", alpha, range(0, 1), "weight of a batch in the running mean t (TFace: 0.1)");
    gradient_field(f, gradient);
    fallback_field(f, fallback);
  }
};

class CurricularFace : public Margin {
 public:
  explicit CurricularFace(const CurricularFaceOptions& options)
      : options_(options), t_(register_buffer("t", torch::zeros({1}))) {}
  MarginRule rule() const override {
    MarginRule rule;
    rule.negative = NegativeRule::kCurricular;
    return rule;
  }
  MarginOutput apply(const MarginInput& input) override {
    const double m = input.now(options_.margin);
    MarginOutput out = angular_output(add_angle(input.target, m, options_.fallback),
                                      options_.gradient, input.now(options_.scale));
    if (is_training())
      t_.keep(options_.alpha * input.target.mean() + (1 - options_.alpha) * t_.now());
    out.p0 = add_angle(input.target, m, "none").phi;  // hardness ignores the fallback
    out.p1 = t_.now().expand_as(input.target).contiguous();
    return out;
  }
  void commit() override { t_.commit(); }
  void discard() override { t_.discard(); }

 private:
  CurricularFaceOptions options_;
  RunningValue t_;
};

const bool registered = Margins::get().add<CurricularFace, CurricularFaceOptions>(
    "curricularface", "ArcFace with a curriculum of hard negatives (Huang 2020)");

}  // namespace
}  // namespace facetrain
