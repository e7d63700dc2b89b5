// Circle loss over pairs: log(1 + Σ_N e^{γ α_n (s_n - m)} Σ_P e^{-γ α_p (s_p - 1 + m)}) with the
// weights α_p = [1 + m - s_p]+ and α_n = [s_n + m]+, held constant in the gradient. Sun et al.
// 2020, arXiv:2002.10857, eq. 6 to 8; γ 256 and m 0.25 are theirs for faces (80 and 0.4 for
// retrieval).
#include "core/torch.h"
#include "losses/pair_loss.h"

namespace facetrain {
namespace {

struct CirclePairOptions {
  double margin = 0.25, scale = 256;
  void fields(auto& f) {
    f("margin", margin, range(-1, 1), "m: radius of the circle that separates the pairs");
    f("scale", scale, range(1, 1024), "γ: multiplies the weighted cosines");
  }
};

class CirclePair : public PairLoss {
 public:
  explicit CirclePair(const CirclePairOptions& options) : options_(options) {}

  at::Tensor apply(const PairInput& input) const override {
    const auto& [margin, scale] = options_;
    const at::Tensor& cosine = input.cosine;
    const at::Tensor for_positive = (1 + margin - cosine).relu().detach();
    const at::Tensor for_negative = (cosine + margin).relu().detach();
    const at::Tensor sum =
        masked_logsumexp(-scale * for_positive * (cosine - 1 + margin), input.same) +
        masked_logsumexp(scale * for_negative * (cosine - margin), input.other);
    return at::logaddexp(sum, at::zeros_like(sum));
  }

 private:
  CirclePairOptions options_;
};

const bool registered = PairLosses::get().add<CirclePair, CirclePairOptions>(
    "circle_pair", "each pair weighted by its distance from the optimum (Sun 2020)");

}  // namespace
}  // namespace facetrain
