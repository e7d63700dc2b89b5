// LARS: You, Gitman, Ginsburg 2017, arXiv:1708.03888, in the form of MAE and MoCo v3: g += λ p;
// g *= t |p| / |g| where both norms are above 0; u = μ u + g; p -= lr u. Tensors that `exclude`
// names (those of one dimension) get neither decay nor ratio.
#include "trainer/trust_ratio.h"

namespace facetrain {
namespace {

struct LarsOptions : TrustRatioOptions {
  std::vector<std::string> exclude{"rank<2"};
  void fields(auto& f) {
    trust_fields(f);
    f("exclude", exclude,
      "rules on tensors that get neither decay nor trust ratio: globs on names or 'rank<2'");
  }
};

class Lars : public TrustRatioSgd {
 public:
  Lars(const LarsOptions& options, const std::vector<Parameter>& parameters)
      : TrustRatioSgd(options, parameters, options.exclude) {}

 protected:
  void prepare(const std::vector<Item>& items, Communicator* comm) override {
    std::vector<Item> adapted;
    for (const Item& item : items) {
      if (!item.adapt) continue;
      if (item.gradient.defined()) item.gradient.add_(item.parameter->tensor, item.weight_decay);
      adapted.push_back(item);
    }
    const auto all = norms(adapted, comm);
    for (size_t i = 0; i < adapted.size(); ++i) {
      const auto [weight, gradient] = all[i];
      if (adapted[i].gradient.defined() && weight > 0 && gradient > 0)
        adapted[i].gradient.mul_(trust_options().trust * weight / gradient);
    }
  }
};

const bool registered = Optimizers::get().add<Lars, LarsOptions>(
    "lars", "layer-wise adaptive rates, after the decay (You 2017; MAE's form)");

}  // namespace
}  // namespace facetrain
