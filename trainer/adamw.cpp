// AdamW: Adam with decoupled weight decay. Loshchilov, Hutter 2019, arXiv:1711.05101, algorithm 2;
// PyTorch's form of it.
#include "trainer/optimizer.h"

namespace facetrain {
namespace {

struct AdamWOptions : CommonOptimizerOptions {
  double beta1 = 0.9, beta2 = 0.999, eps = 1e-8;
  AdamWOptions() { lr = 1e-3, weight_decay = 0.05; }
  void fields(auto& f) {
    common_fields(f);
    f("beta1", beta1, range(0, 0.9999), "decay of the mean of the gradient");
    f("beta2", beta2, range(0, 0.999999), "decay of the mean of its square");
    f("eps", eps, range(0, 1), "added to the root");
  }
};

class AdamW : public Optimizer {
 public:
  AdamW(const AdamWOptions& options, const std::vector<Parameter>& parameters)
      : Optimizer(options, {"exp_avg", "exp_avg_sq"}, make_groups(parameters, options)),
        options_(options) {}

 protected:
  // Bias correction uses the number of updates of the run, also for rows that are met for the first
  // time.
  void update(torch::TensorList tensors, torch::TensorList gradients,
              const std::vector<std::vector<torch::Tensor>>& states, double lr, double weight_decay,
              int64_t number) override {
    // The operator wants counters that include this update: it corrects by 1 - beta^counter.
    std::vector<torch::Tensor> steps;
    for (const auto& tensor : tensors)
      steps.push_back(torch::full({}, static_cast<double>(number),
                                  torch::TensorOptions(torch::kFloat).device(tensor.device())));
    at::_fused_adamw_(tensors, gradients, states[0], states[1], {}, steps, lr, options_.beta1,
                      options_.beta2, weight_decay, options_.eps, /*amsgrad=*/false,
                      /*maximize=*/false);
  }

 private:
  AdamWOptions options_;
};

const bool registered = Optimizers::get().add<AdamW, AdamWOptions>(
    "adamw", "Adam with decoupled weight decay (Loshchilov, Hutter 2019)");

}  // namespace
}  // namespace facetrain
