// ArcNegFace: ArcFace whose negatives count by how near they are to the margined target: t c + t -
// 1, t = α exp(-(c - φ)² / σ), a constant of the derivative. Liu et al. 2019, arXiv:1909.00632.
#include "losses/angular_margin.h"

namespace facetrain {
namespace {

struct ArcNegFaceOptions {
  Scheduled margin = 0.5, scale = 64;
  double alpha = 1.2, sigma = 2;
  std::string gradient = "exact", fallback = "hard";
  void fields(auto& f) {
    f("margin", margin, range(0, 1.5707),
      "added to the target's angle, radians; a number or a schedule");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
    f("alpha", alpha, range(0, 10), "largest weight of a negative");
    f("sigma", sigma, range(1e-3, 1e3), "width of the weight, in squared cosine");
    gradient_field(f, gradient);
    fallback_field(f, fallback);
  }
};

class ArcNegFace : public Margin {
 public:
  explicit ArcNegFace(const ArcNegFaceOptions& options) : options_(options) {}
  MarginRule rule() const override {
    MarginRule rule;
    rule.negative = NegativeRule::kGaussian;
    rule.negative_a = options_.alpha;
    rule.negative_b = options_.sigma;
    return rule;
  }
  MarginOutput apply(const MarginInput& input) override {
    MarginOutput out =
        angular_output(add_angle(input.target, input.now(options_.margin), options_.fallback),
                       options_.gradient, input.now(options_.scale));
    out.p0 = out.phi;
    return out;
  }

 private:
  ArcNegFaceOptions options_;
};

const bool registered = Margins::get().add<ArcNegFace, ArcNegFaceOptions>(
    "arcnegface", "negatives near the margined target weigh more (Liu 2019)");

}  // namespace
}  // namespace facetrain
