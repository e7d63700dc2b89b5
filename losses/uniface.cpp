// UniFace's unified cross-entropy: one learned threshold b between all positive and all negative
// cosines, a softplus of each instead of a soft-max. Zhou et al. 2023 (ICCV, "UniFace: Unified
// Cross-Entropy Loss for Deep Face Recognition").
//
// log(1 + exp(-(s (c_y - m) - b))) + l Σ log(1 + exp(s c_j - b)). The authors cut the exponents at
// ±s; the softplus needs no cut.
#include "losses/margin.h"

namespace facetrain {
namespace {

struct UniFaceOptions {
  Scheduled margin = 0.4, scale = 64;
  double weight = 1, bias = 11.5;
  void fields(auto& f) {
    f("margin", margin, range(0, 1), "subtracted from the target's cosine; a number or a schedule");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
    f("weight", weight, range(0, 1e6), "l, weight of the negatives' terms");
    f("bias", bias, range(-1000, 1000),
      "where the learned b starts; published: ln(10 classes sample_rate), 11.5 for 10,000 classes");
  }
};

class UniFace : public Margin {
 public:
  explicit UniFace(const UniFaceOptions& options) : options_(options) {}
  MarginRule rule() const override {
    MarginRule rule;
    rule.reduction = RowReduction::kSoftplusSum;
    rule.bias = Bias::kShared;
    rule.shared_bias = -options_.bias;  // the classifier adds its shift
    rule.beta = options_.weight;
    return rule;
  }
  MarginOutput apply(const MarginInput& input) override {
    return plain_output(input.target - input.now(options_.margin), input.now(options_.scale));
  }

 private:
  UniFaceOptions options_;
};

const bool registered = Margins::get().add<UniFace, UniFaceOptions>(
    "uniface", "one learned threshold for all cosines (Zhou 2023)");

}  // namespace
}  // namespace facetrain
