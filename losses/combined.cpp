// The combined margin: multiplied angle, added angle, subtracted cosine. Deng et al. 2019,
// arXiv:1801.07698, eq. 4. (1, 0.5, 0) is ArcFace without a fallback, (1, 0, 0.4) CosFace, (1.35,
// 0, 0) SphereFace's first turn.
//
// As published there is no fallback: beyond m1 θ + m2 = π the cosine rises again.
#include "losses/angular_margin.h"

namespace facetrain {
namespace {

struct CombinedOptions {
  Scheduled m1 = 1, m2 = 0.3, m3 = 0.2, scale = 64;
  std::string gradient = "exact";
  void fields(auto& f) {
    f("m1", m1, range(0.5, 4), "multiplies the target's angle; a number or a schedule");
    f("m2", m2, range(0, 1.5707), "added to the target's angle, radians; a number or a schedule");
    f("m3", m3, range(0, 1), "subtracted from the target's cosine; a number or a schedule");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
    gradient_field(f, gradient);
  }
};

class Combined : public Margin {
 public:
  explicit Combined(const CombinedOptions& options) : options_(options) {}
  MarginOutput apply(const MarginInput& input) override {
    AngularTarget target =
        scale_angle(input.target, input.now(options_.m1), input.now(options_.m2));
    target.phi = target.phi - input.now(options_.m3);
    return angular_output(target, options_.gradient, input.now(options_.scale));
  }

 private:
  CombinedOptions options_;
};

const bool registered = Margins::get().add<Combined, CombinedOptions>(
    "combined", "cos(m1 angle + m2) - m3 (Deng 2019, eq. 4)");

}  // namespace
}  // namespace facetrain
