// SFace: no softmax; the target's cosine is pulled up and the negatives' pushed down, each by a
// sigmoid gate of its angle that closes when it is good enough. Zhong et al. 2021 (IEEE TIP),
// arXiv:2205.12010, eq. 5 to 8.
//
// -s σ(k (θ_y - a)) c_y + Σ s σ(-k (θ_j - b)) c_j, the gates constants of the derivative.
#include "losses/angular_margin.h"

namespace facetrain {
namespace {

struct SFaceOptions {
  Scheduled scale = 64;
  double slope = 80, a = 0.8, b = 1.23;
  void fields(auto& f) {
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
    f("slope", slope, range(0, 1000), "k, steepness of the gates");
    f("a", a, range(0, 3.1416), "the target's gate closes below this angle (CASIA: 0.87)");
    f("b", b, range(0, 3.1416), "a negative's gate closes above this angle (CASIA: 1.2)");
  }
};

class SFace : public Margin {
 public:
  explicit SFace(const SFaceOptions& options) : options_(options) {}
  MarginRule rule() const override {
    MarginRule rule;
    rule.reduction = RowReduction::kGatedSum;
    rule.gate_slope = options_.slope;
    rule.gate_centre = options_.b;
    return rule;
  }
  MarginOutput apply(const MarginInput& input) override {
    const at::Tensor gate =
        (options_.slope * (angle_of(input.target).angle - options_.a)).sigmoid();
    MarginOutput out = plain_output(gate * input.target, input.now(options_.scale));
    out.dphi_dcos = gate;
    return out;
  }

 private:
  SFaceOptions options_;
};

const bool registered =
    Margins::get().add<SFace, SFaceOptions>("sface", "gated cosines, no softmax (Zhong 2021)");

}  // namespace
}  // namespace facetrain
