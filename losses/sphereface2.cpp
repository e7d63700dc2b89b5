// SphereFace2 (-C): every class is a binary problem of its own with a shared learned bias. Wen et
// al. 2022, arXiv:2108.01513.
//
// Logits r (g(c) - m) + b for the target and r (g(c) + m) + b for the others, g(u) = 2 ((u + 1) /
// 2)^t - 1, whose correction g(u) - u is a constant of the derivative; binary cross-entropies, the
// target's times α and the others' times 1 - α, all times loss_weight / r. b starts where the
// positives and the negatives pull at it equally when all cosines are zero (the authors' closed
// form). The authors also make the class rows unit vectors in place at every step; here, as for
// every margin, they are only used as such, so weight decay changes their effective rate.
#include <algorithm>
#include <cmath>

#include "losses/margin.h"

namespace facetrain {
namespace {

struct SphereFace2Options {
  double alpha = 0.7, scale = 40, margin = 0.4, power = 3, loss_weight = 50;
  void fields(auto& f) {
    f("alpha", alpha, range(0.001, 0.999),
      "weight of the target's term; 1 - alpha: of the others' (MS1M: 0.8)");
    f("scale", scale, range(1, 1024), "r, multiplies the cosines (MS1M: 64)");
    f("margin", margin, range(0, 1), "between target and others, on both sides (MS1M: 0.5)");
    f("power", power, range(1, 20), "t of the similarity's adjustment 2 ((c + 1) / 2)^t - 1");
    f("loss_weight", loss_weight, range(0, 1e6), "the row's loss is multiplied by this / scale");
  }
};

class SphereFace2 : public Margin {
 public:
  explicit SphereFace2(const SphereFace2Options& options) : options_(options) {}
  // α σ(-(a_y + b)) = (1 - α) (C - 1) σ(a_i + b), with a_y and a_i the logits at cosine 0.
  void set_problem(int64_t classes, double) override {
    const double others = static_cast<double>(std::max<int64_t>(1, classes - 1));
    const double z = options_.alpha / ((1 - options_.alpha) * others);
    const double zero = 2 * std::pow(0.5, options_.power) - 1;
    const double of_others = options_.scale * (zero + options_.margin);
    const double of_target = options_.scale * (zero - options_.margin);
    const double root = std::sqrt((1 - z) * (1 - z) + 4 * z * std::exp(of_target - of_others));
    // Two forms of one root: each loses no digits on its side of z = 1.
    bias_ = z < 1 ? std::log(2 * z / (1 - z + root)) - of_others
                  : std::log((z - 1 + root) / 2) - of_target;
  }
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
    rule.shared_bias = bias_;
    return rule;
  }
  MarginOutput apply(const MarginInput& input) override {
    const at::Tensor half = (input.target.clamp(-1, 1) + 1) / 2;
    return plain_output(2 * half.pow(options_.power) - 1 - options_.margin, options_.scale);
  }

 private:
  SphereFace2Options options_;
  double bias_ = 0;
};

const bool registered = Margins::get().add<SphereFace2, SphereFace2Options>(
    "sphereface2", "a binary problem for every class (Wen 2022)");

}  // namespace
}  // namespace facetrain
