// LARC: apex's form without clipping, as SwAV trains with it: where both norms are above 0,
// g = (g + λ p) t |p| / (|g| + λ |p| + ε); then SGD with momentum. Every tensor is adapted, biases
// and batch norms too.
#include "trainer/trust_ratio.h"

namespace facetrain {
namespace {

struct LarcOptions : TrustRatioOptions {
  double eps = 1e-8;
  void fields(auto& f) {
    trust_fields(f);
    f("eps", eps, range(0, 1), "added to the norm of the gradient");
  }
};

class Larc : public TrustRatioSgd {
 public:
  Larc(const LarcOptions& options, const std::vector<Parameter>& parameters)
      : TrustRatioSgd(options, parameters, {}), eps_(options.eps) {}

 protected:
  void prepare(const std::vector<Item>& items, Communicator* comm) override {
    const auto all = norms(items, comm);
    for (size_t i = 0; i < items.size(); ++i) {
      const auto [weight, gradient] = all[i];
      const auto& item = items[i];
      if (!item.gradient.defined() || weight == 0 || gradient == 0) continue;
      item.gradient.add_(item.parameter->tensor, item.weight_decay)
          .mul_(trust_options().trust * weight / (gradient + item.weight_decay * weight + eps_));
    }
  }

 private:
  double eps_;
};

const bool registered = Optimizers::get().add<Larc, LarcOptions>(
    "larc", "layer-wise adaptive rates of every tensor (apex's LARC without clipping)");

}  // namespace
}  // namespace facetrain
