// CosFace: a constant is subtracted from the target's cosine. Wang et al. 2018, arXiv:1801.09414,
// eq. 4.
#include "losses/margin.h"

namespace facetrain {
namespace {

struct CosFaceOptions {
  Scheduled margin = 0.4, scale = 64;
  void fields(auto& f) {
    f("margin", margin, range(0, 1), "subtracted from the target's cosine; a number or a schedule");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
  }
};

class CosFace : public Margin {
 public:
  explicit CosFace(const CosFaceOptions& options) : options_(options) {}
  MarginOutput apply(const MarginInput& input) override {
    return plain_output(input.target - input.now(options_.margin), input.now(options_.scale));
  }

 private:
  CosFaceOptions options_;
};

const bool registered =
    Margins::get().add<CosFace, CosFaceOptions>("cosface", "margin in the cosine (Wang 2018)");

}  // namespace
}  // namespace facetrain
