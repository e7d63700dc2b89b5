// Plain softmax: products with the class rows plus a learned bias, nothing normalised, no margin.
#include "losses/margin.h"

namespace facetrain {
namespace {

struct SoftmaxOptions {
  void fields(auto&) {}
};

class Softmax : public Margin {
 public:
  explicit Softmax(const SoftmaxOptions&) {}
  MarginRule rule() const override {
    MarginRule rule;
    rule.normalise = false;
    rule.bias = Bias::kPerClass;
    return rule;
  }
  MarginOutput apply(const MarginInput& input) override {
    MarginOutput out;
    out.phi = input.target;
    out.dphi_dcos = out.scale = at::ones_like(input.target);
    return out;
  }
};

const bool registered =
    Margins::get().add<Softmax, SoftmaxOptions>("softmax", "no margin: W f + b, not normalised");

}  // namespace
}  // namespace facetrain
