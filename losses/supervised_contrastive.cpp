// Supervised contrastive loss: the mean over an anchor's positives of -log(e^{s_p / τ} / Σ e^{s /
// τ}), the sum over all rows but the anchor. Khosla et al. 2020, arXiv:2004.11362, eq. 2 (L_out), τ
// = 0.1 as in their experiments; their PyTorch code (HobbitLong/SupContrast) has 0.07.
#include "core/torch.h"
#include "losses/pair_loss.h"

namespace facetrain {
namespace {

struct SupervisedContrastiveOptions {
  double temperature = 0.1;
  void fields(auto& f) {
    f("temperature", temperature, range(1e-3, 100), "τ: divides the cosines");
  }
};

class SupervisedContrastive : public PairLoss {
 public:
  explicit SupervisedContrastive(const SupervisedContrastiveOptions& options) : options_(options) {}

  at::Tensor apply(const PairInput& input) const override {
    const at::Tensor logits = input.cosine / options_.temperature;
    return masked_logsumexp(logits, input.same.logical_or(input.other)) -
           masked_mean(logits, input.same);
  }

 private:
  SupervisedContrastiveOptions options_;
};

const bool registered = PairLosses::get().add<SupervisedContrastive, SupervisedContrastiveOptions>(
    "supervised_contrastive", "soft-max over the batch, each positive a target (Khosla 2020)");

}  // namespace
}  // namespace facetrain
