// NormFace: a softmax over scaled cosines s c_j, no margin. Wang et al. 2017, arXiv:1704.06369.
#include "losses/margin.h"

namespace facetrain {
namespace {

struct NormFaceOptions {
  Scheduled scale = 64;
  void fields(auto& f) {
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
  }
};

class NormFace : public Margin {
 public:
  explicit NormFace(const NormFaceOptions& options) : options_(options) {}
  MarginOutput apply(const MarginInput& input) override {
    return plain_output(input.target, input.now(options_.scale));
  }

 private:
  NormFaceOptions options_;
};

const bool registered = Margins::get().add<NormFace, NormFaceOptions>(
    "normface", "no margin: scaled cosines (Wang 2017)");

}  // namespace
}  // namespace facetrain
