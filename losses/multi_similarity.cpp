// Multi-similarity loss: 1/α log(1 + Σ_P e^{-α (s - λ)}) + 1/β log(1 + Σ_N e^{β (s - λ)}) over
// mined pairs. Wang et al. 2019, arXiv:1904.06627, L_MS of section 4, with α 2, β 50 and ε 0.1; the
// paper says λ 1, its authors' code (MalongTech/research-ms-loss) and pytorch-metric-learning 0.5.
//
// A positive is kept if it is less than ε above the largest negative, a negative if it is less than
// ε below the smallest positive. As published, anchors without a kept pair count with loss 0.
#include <limits>

#include "core/torch.h"
#include "losses/pair_loss.h"

namespace facetrain {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct MultiSimilarityOptions {
  double alpha = 2, beta = 50, base = 0.5, epsilon = 0.1;
  void fields(auto& f) {
    f("alpha", alpha, range(1e-3, 1024), "α: steepness for positives");
    f("beta", beta, range(1e-3, 1024), "β: steepness for negatives");
    f("base", base, range(-1, 1), "λ: cosine between positives and negatives");
    f("epsilon", epsilon, range(-2, 2), "slack of the mining; 2: every pair");
  }
};

class MultiSimilarity : public PairLoss {
 public:
  explicit MultiSimilarity(const MultiSimilarityOptions& options) : options_(options) {}

  at::Tensor apply(const PairInput& input) const override {
    const auto& [alpha, beta, base, epsilon] = options_;
    const at::Tensor cosine = input.cosine.detach();
    const at::Tensor smallest = at::where(input.same, cosine, kInfinity).amin(1, true);
    const at::Tensor largest = at::where(input.other, cosine, -kInfinity).amax(1, true);
    const at::Tensor positives = input.same.logical_and(cosine.lt(largest + epsilon));
    const at::Tensor negatives = input.other.logical_and(cosine.gt(smallest - epsilon));
    return log_of_one_more(-alpha * (input.cosine - base), positives) / alpha +
           log_of_one_more(beta * (input.cosine - base), negatives) / beta;
  }

 private:
  // log(1 + Σ e^value)
  static at::Tensor log_of_one_more(const at::Tensor& values, const at::Tensor& mask) {
    const at::Tensor sum = masked_logsumexp(values, mask);
    return at::logaddexp(sum, at::zeros_like(sum));
  }

  MultiSimilarityOptions options_;
};

const bool registered = PairLosses::get().add<MultiSimilarity, MultiSimilarityOptions>(
    "multi_similarity", "soft weights of mined pairs (Wang 2019)");

}  // namespace
}  // namespace facetrain
