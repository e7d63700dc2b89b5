// SGD with momentum whose gradients are first rescaled, tensor by tensor, by the ratio of the norms
// of weights and gradient: what LARS and LARC share.
//
// Norms are of whole tensors: those of class rows are summed over ranks, those of replicated
// tensors are rank 0's, so that every rank takes the same step to the last bit.
#pragma once

#include <string>
#include <vector>

#include "trainer/optimizer.h"

namespace facetrain {

struct TrustRatioOptions : CommonOptimizerOptions {
  double momentum = 0.9, trust = 0.001;
  TrustRatioOptions() { weight_decay = 1e-6; }
  void trust_fields(auto& f) {
    common_fields(f);
    f("momentum", momentum, range(0, 0.9999), "share of the last update that is kept");
    f("trust", trust, range(1e-9, 1), "trust coefficient: the ratio of the norms is times this");
  }
};

class TrustRatioSgd : public Optimizer {
 public:
  double momentum() const override { return options_.momentum; }
  bool updates_rows() const override { return false; }

 protected:
  // `unadapted`: rules on tensors that get neither decay nor a ratio.
  TrustRatioSgd(const TrustRatioOptions& options, const std::vector<Parameter>& parameters,
                const std::vector<std::string>& unadapted);
  struct Norms {
    double weight, gradient;
  };
  // **Collective.** 2-norms over all ranks, an entry an item.
  static std::vector<Norms> norms(const std::vector<Item>& items, Communicator* comm);
  const TrustRatioOptions& trust_options() const { return options_; }
  // The decay is in the gradient by now.
  void update(torch::TensorList tensors, torch::TensorList gradients,
              const std::vector<std::vector<torch::Tensor>>& states, double lr, double weight_decay,
              int64_t number) override;

 private:
  TrustRatioOptions options_;
};

}  // namespace facetrain
