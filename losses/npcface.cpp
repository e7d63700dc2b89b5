// NPCFace: hard negatives become t c + a, and the target's margin grows with their mean cosine: m0
// + m1 mean. Zeng et al. 2020, arXiv:2007.10172.
//
// Hard is what exceeds cos(θ + m); the mean is a pre-pass over all ranks' negatives and a constant
// of the derivative. As in the published code the margin counts only below 90 degrees.
#include "losses/angular_margin.h"

namespace facetrain {
namespace {

struct NpcFaceOptions {
  Scheduled margin = 0.5, scale = 64;
  double m0 = 0.4, m1 = 0.2, t = 1.1, a = 0.2;
  std::string gradient = "exact";
  void fields(auto& f) {
    f("margin", margin, range(0, 1.5707),
      "a negative above cos(angle + margin) is hard, radians; a number or a schedule");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
    f("m0", m0, range(0, 1.5707), "the target's margin without hard negatives, radians");
    f("m1", m1, range(0, 1.5707), "how much the hard negatives' mean cosine adds to it");
    f("t", t, range(0, 10), "multiplies a hard negative's cosine");
    f("a", a, range(0, 10), "added to a hard negative's cosine");
    gradient_field(f, gradient);
  }
};

class NpcFace : public Margin {
 public:
  explicit NpcFace(const NpcFaceOptions& options) : options_(options) {}
  MarginRule rule() const override {
    MarginRule rule;
    rule.negative = NegativeRule::kAffineAbove;
    rule.negative_a = options_.t;
    rule.negative_b = options_.a;
    rule.prepass = Prepass::kSumAbove;
    return rule;
  }
  at::Tensor prepass_parameter(const MarginInput& input) override {
    return add_angle(input.target, input.now(options_.margin), "none").phi;
  }
  MarginOutput apply(const MarginInput& input) override {
    const at::Tensor mean = input.prepass_sum / input.prepass_count.clamp_min(1);
    const at::Tensor margin = options_.m0 + options_.m1 * mean;
    MarginOutput out = angular_output(add_angle(input.target, margin, "easy"), options_.gradient,
                                      input.now(options_.scale));
    out.p0 = prepass_parameter(input);
    return out;
  }

 private:
  NpcFaceOptions options_;
};

const bool registered = Margins::get().add<NpcFace, NpcFaceOptions>(
    "npcface", "margin grows with the hard negatives (Zeng 2020)");

}  // namespace
}  // namespace facetrain
