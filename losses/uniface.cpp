// UniFace's unified cross-entropy: one learned threshold b between all positive and all negative
// cosines, a softplus of each instead of a soft-max. Zhou et al. 2023 (ICCV, "UniFace: Unified
// Cross-Entropy Loss for Deep Face Recognition").
//
// log(1 + exp(-(s (c_y - m) - b))) + l Σ log(1 + exp(s c_j - b)). The authors cut the exponents at
// ±s; the softplus needs no cut. b starts at ln(10 C ρ), as theirs does.
#include <algorithm>
#include <cmath>

#include "losses/margin.h"

namespace facetrain {
namespace {

struct UniFaceOptions {
  Scheduled margin = 0.4, scale = 64;
  double weight = 1;
  void fields(auto& f) {
    f("margin", margin, range(0, 1), "subtracted from the target's cosine; a number or a schedule");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
    f("weight", weight, range(0, 1e6), "l, weight of the negatives' terms");
  }
};

class UniFace : public Margin {
 public:
  explicit UniFace(const UniFaceOptions& options) : options_(options) {}
  void set_problem(int64_t classes, double sample_rate) override {
    bias_ = std::log(10 * std::max(1.0, static_cast<double>(classes) * sample_rate));
  }
  MarginRule rule() const override {
    MarginRule rule;
    rule.reduction = RowReduction::kSoftplusSum;
    rule.bias = Bias::kShared;
    rule.shared_bias = -bias_;  // the classifier adds its shift
    rule.beta = options_.weight;
    return rule;
  }
  MarginOutput apply(const MarginInput& input) override {
    return plain_output(input.target - input.now(options_.margin), input.now(options_.scale));
  }

 private:
  UniFaceOptions options_;
  double bias_ = 0;
};

const bool registered = Margins::get().add<UniFace, UniFaceOptions>(
    "uniface", "one learned threshold for all cosines (Zhou 2023)");

}  // namespace
}  // namespace facetrain
