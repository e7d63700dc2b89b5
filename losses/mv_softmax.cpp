// MV-Softmax: negatives above the margined target, the mis-classified ones, become w c + w - 1.
// Wang et al. 2020, arXiv:1912.00833.
//
// The target is CosFace's (am, only where the cosine exceeds the margin) or ArcFace's (arc, only
// below 90 degrees), as in the published code; what counts as hard ignores those exceptions.
#include "losses/angular_margin.h"

namespace facetrain {
namespace {

struct MvSoftmaxOptions {
  std::string kind = "am";
  Scheduled margin = 0.35, scale = 32;
  double weight = 1.12;
  std::string gradient = "exact";
  void fields(auto& f) {
    f("kind", kind, one_of("am", "arc"), "whether the margin is in the cosine or in the angle");
    f("margin", margin, range(0, 1.5707),
      "subtracted from the cosine (am) or added to the angle (arc); a number or a schedule");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
    f("weight", weight, range(1, 10), "w of the hard negatives: w cos + w - 1");
    gradient_field(f, gradient);
  }
};

class MvSoftmax : public Margin {
 public:
  explicit MvSoftmax(const MvSoftmaxOptions& options) : options_(options) {}
  MarginRule rule() const override {
    MarginRule rule;
    rule.negative = NegativeRule::kAffineAbove;
    rule.negative_a = options_.weight;
    rule.negative_b = options_.weight - 1;
    return rule;
  }
  MarginOutput apply(const MarginInput& input) override {
    const double m = input.now(options_.margin), scale = input.now(options_.scale);
    if (options_.kind == "am") {
      const at::Tensor moved = input.target - m;
      MarginOutput out = plain_output(at::where(input.target > m, moved, input.target), scale);
      out.p0 = moved;
      return out;
    }
    MarginOutput out = angular_output(add_angle(input.target, m, "easy"), options_.gradient, scale);
    out.p0 = add_angle(input.target, m, "none").phi;
    return out;
  }

 private:
  MvSoftmaxOptions options_;
};

const bool registered = Margins::get().add<MvSoftmax, MvSoftmaxOptions>(
    "mv_softmax", "mis-classified negatives weigh more (Wang 2020)");

}  // namespace
}  // namespace facetrain
