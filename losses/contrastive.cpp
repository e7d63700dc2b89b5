// Contrastive loss: ½ d² of positives, ½ [m - d]+² of negatives, d the distance of unit vectors.
// Hadsell et al. 2006 (CVPR), eq. 4; for faces Sun et al. 2014 (DeepID2), arXiv:1406.4773, eq. 2.
// Neither publishes a margin; 1 is pytorch-metric-learning's.
//
// Published as a sum over pairs. Here an anchor takes the mean over its positives plus the mean
// over its negatives, so that the many negatives of a P x K batch do not drown the positives.
#include "core/torch.h"
#include "losses/pair_loss.h"

namespace facetrain {
namespace {

// Below it the distance, whose derivative is infinite at zero, counts as constant.
constexpr double kSmallestSquare = 1e-12;

struct ContrastiveOptions {
  double margin = 1;
  void fields(auto& f) {
    f("margin", margin, range(0, 2), "m: distance that negatives are pushed to (0 ... 2)");
  }
};

class Contrastive : public PairLoss {
 public:
  explicit Contrastive(const ContrastiveOptions& options) : options_(options) {}

  at::Tensor apply(const PairInput& input) const override {
    const at::Tensor square = 2 - 2 * input.cosine;
    const at::Tensor distance = square.clamp_min(kSmallestSquare).sqrt();
    const at::Tensor hinge = (options_.margin - distance).relu().square();
    return (masked_mean(square, input.same) + masked_mean(hinge, input.other)) / 2;
  }

 private:
  ContrastiveOptions options_;
};

const bool registered = PairLosses::get().add<Contrastive, ContrastiveOptions>(
    "contrastive", "positives together, negatives a margin apart (Hadsell 2006)");

}  // namespace
}  // namespace facetrain
