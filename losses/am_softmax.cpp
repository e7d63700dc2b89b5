// AM-Softmax: CosFace's formula s (c_y - m), published at the same time with its own defaults. Wang
// et al. 2018, arXiv:1801.05599.
#include "losses/margin.h"

namespace facetrain {
namespace {

struct AmSoftmaxOptions {
  Scheduled margin = 0.35, scale = 30;
  void fields(auto& f) {
    f("margin", margin, range(0, 1), "subtracted from the target's cosine; a number or a schedule");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
  }
};

class AmSoftmax : public Margin {
 public:
  explicit AmSoftmax(const AmSoftmaxOptions& options) : options_(options) {}
  MarginOutput apply(const MarginInput& input) override {
    return plain_output(input.target - input.now(options_.margin), input.now(options_.scale));
  }

 private:
  AmSoftmaxOptions options_;
};

const bool registered = Margins::get().add<AmSoftmax, AmSoftmaxOptions>(
    "am_softmax", "margin in the cosine, scale 30 (Wang 2018, AM-Softmax)");

}  // namespace
}  // namespace facetrain
