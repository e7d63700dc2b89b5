// CosFace: a constant is subtracted from the target's cosine. Wang et al. 2018, arXiv:1801.09414,
// eq. 4.
#include "losses/margin.h"

namespace facetrain {
namespace {

struct CosFaceOptions {
  double margin = 0.4, scale = 64;
  void fields(auto& f) {
    f("margin", margin, range(0, 1), "subtracted from the target's cosine");
    f("scale", scale, range(1, 1024), "multiplies the cosines");
  }
};

class CosFace : public Margin {
 public:
  explicit CosFace(const CosFaceOptions& options) : options_(options) {}
  MarginOutput apply(const MarginInput& input) override {
    MarginOutput out;
    out.phi = input.target - options_.margin;
    out.dphi_dcos = at::ones_like(input.target);
    out.scale = at::full_like(input.target, options_.scale);
    return out;
  }

 private:
  CosFaceOptions options_;
};

const bool registered =
    Margins::get().add<CosFace, CosFaceOptions>("cosface", "margin in the cosine (Wang 2018)");

}  // namespace
}  // namespace facetrain
