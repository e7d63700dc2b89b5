// ArcFace: a constant is added to the target's angle. Deng et al. 2019, arXiv:1801.07698, eq. 3.
#include "losses/angular_margin.h"

namespace facetrain {
namespace {

struct ArcFaceOptions {
  Scheduled margin = 0.5, scale = 64;
  std::string gradient = "exact", fallback = "hard";
  void fields(auto& f) {
    f("margin", margin, range(0, 1.5707),
      "added to the target's angle, radians; a number or a schedule");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
    gradient_field(f, gradient);
    fallback_field(f, fallback);
  }
};

class ArcFace : public Margin {
 public:
  explicit ArcFace(const ArcFaceOptions& options) : options_(options) {}
  MarginOutput apply(const MarginInput& input) override {
    return angular_output(add_angle(input.target, input.now(options_.margin), options_.fallback),
                          options_.gradient, input.now(options_.scale));
  }

 private:
  ArcFaceOptions options_;
};

const bool registered =
    Margins::get().add<ArcFace, ArcFaceOptions>("arcface", "margin in the angle (Deng 2019)");

}  // namespace
}  // namespace facetrain
