// SGD with momentum, as PyTorch's: g += λ p; v = μ v + g; p -= lr (nesterov ? g + μ v : v).
#include "trainer/optimizer.h"

namespace facetrain {
namespace {

struct SgdOptions : CommonOptimizerOptions {
  double momentum = 0.9;
  bool nesterov = false;
  void fields(auto& f) {
    common_fields(f);
    f("momentum", momentum, range(0, 0.9999), "share of the last update that is kept");
    f("nesterov", nesterov, "Nesterov's form of momentum");
  }
};

class Sgd : public Optimizer {
 public:
  Sgd(const SgdOptions& options, const std::vector<Parameter>& parameters)
      : Optimizer(options,
                  options.momentum > 0 ? std::vector<std::string>{"momentum"}
                                       : std::vector<std::string>{},
                  make_groups(parameters, options)),
        momentum_(options.momentum),
        nesterov_(options.nesterov) {
    FT_CHECK(!nesterov_ || momentum_ > 0, "optimizer.nesterov wants a momentum above 0, found {}",
             momentum_);
  }

  double momentum() const override { return momentum_; }

 protected:
  // Momentum starts at zero, which is what PyTorch's first step (v = g) amounts to.
  void update(torch::TensorList tensors, torch::TensorList gradients,
              const std::vector<std::vector<torch::Tensor>>& states, double lr, double weight_decay,
              int64_t) override {
    const std::vector<torch::Tensor> momenta =
        states.empty() ? std::vector<torch::Tensor>{} : states[0];
    at::_fused_sgd_(tensors, gradients, momenta, weight_decay, momentum_, lr, /*dampening=*/0.0,
                    nesterov_,
                    /*maximize=*/false, /*is_first_step=*/false);
  }

 private:
  double momentum_;
  bool nesterov_;
};

const bool registered =
    Optimizers::get().add<Sgd, SgdOptions>("sgd", "stochastic gradient descent with momentum");

}  // namespace
}  // namespace facetrain
