// SphereFace2 (-C): every class is a binary problem of its own with a shared learned bias. Wen et
// al. 2022, arXiv:2108.01513.
//
// Logits r (g(c) - m) + b for the target and r (g(c) + m) + b for the others, g(u) = 2 ((u + 1) /
// 2)^t - 1, whose correction g(u) - u is a constant of the derivative; binary cross-entropies, the
// target's times α and the others' times 1 - α, all times loss_weight / r.
#include "losses/margin.h"

namespace facetrain {
namespace {

struct SphereFace2Options {
  double alpha = 0.7, scale = 40, margin = 0.4, power = 3, loss_weight = 50, bias = 5.6;
  void fields(auto& f) {
    f("alpha", alpha, range(0, 1),
      "weight of the target's term; 1 - alpha: of the others' (MS1M: 0.8)");
    f("scale", scale, range(1, 1024), "r, multiplies the cosines (MS1M: 64)");
    f("margin", margin, range(0, 1), "between target and others, on both sides (MS1M: 0.5)");
    f("power", power, range(1, 20), "t of the similarity's adjustment 2 ((c + 1) / 2)^t - 1");
    f("loss_weight", loss_weight, range(0, 1e6), "the row's loss is multiplied by this / scale");
    f("bias", bias, range(-1000, 1000),
      "where the learned bias starts; published: that of equal shares, 5.6 for 10,000 classes");
  }
};

class SphereFace2 : public Margin {
 public:
  explicit SphereFace2(const SphereFace2Options& options) : options_(options) {}
  MarginRule rule() const override {
    const double weight = options_.loss_weight / options_.scale;
    MarginRule rule;
    rule.negative = NegativeRule::kPower;
    rule.negative_a = options_.power;
    rule.negative_b = options_.margin;
    rule.reduction = RowReduction::kSoftplusSum;
    rule.alpha = weight * options_.alpha;
    rule.beta = weight * (1 - options_.alpha);
    rule.bias = Bias::kShared;
    rule.shared_bias = options_.bias;
    return rule;
  }
  MarginOutput apply(const MarginInput& input) override {
    const at::Tensor half = (input.target.clamp(-1, 1) + 1) / 2;
    return plain_output(2 * half.pow(options_.power) - 1 - options_.margin, options_.scale);
  }

 private:
  SphereFace2Options options_;
};

const bool registered = Margins::get().add<SphereFace2, SphereFace2Options>(
    "sphereface2", "a binary problem for every class (Wen 2022)");

}  // namespace
}  // namespace facetrain
