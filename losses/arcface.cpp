// ArcFace: a constant is added to the target's angle. Deng et al. 2019, arXiv:1801.07698, eq. 3.
//
// Beyond θ + m = π the cosine would rise again. `fallback: hard` goes on with c - m sin(m) there
// (sin(π - m) = sin(m)), which is what the published code bases do; `easy` gives no margin to
// angles above 90 degrees; `none` lets it rise.
#include <cmath>

#include "losses/margin.h"

namespace facetrain {
namespace {

struct ArcFaceOptions {
  double margin = 0.5, scale = 64;
  std::string gradient = "exact", fallback = "hard";
  void fields(auto& f) {
    f("margin", margin, range(0, 1.5707), "added to the target's angle, radians");
    f("scale", scale, range(1, 1024), "multiplies the cosines");
    f("gradient", gradient, one_of("exact", "straight_through"),
      "derivative of the margin: exact, or taken as 1 (as arcface_torch does)");
    f("fallback", fallback, one_of("hard", "easy", "none"),
      "hard: cos - m sin(m) where angle + margin > pi; easy: margin only below 90 degrees; none");
  }
};

class ArcFace : public Margin {
 public:
  explicit ArcFace(const ArcFaceOptions& options) : options_(options) {}
  MarginOutput apply(const MarginInput& input) override {
    const double m = options_.margin;
    const at::Tensor cosine = input.target.clamp(-1, 1);
    // 1e-12: the exact derivative is infinite at cosine 1, where training needs it least.
    const at::Tensor sine = (1 - cosine.square()).clamp_min(1e-12).sqrt();
    const at::Tensor inside = cosine * std::cos(m) - sine * std::sin(m);
    const at::Tensor slope = std::cos(m) + cosine / sine * std::sin(m);
    const at::Tensor one = at::ones_like(cosine);
    MarginOutput out;
    if (options_.fallback == "hard") {
      const at::Tensor far = cosine <= std::cos(M_PI - m);
      out.phi = at::where(far, cosine - m * std::sin(m), inside);
      out.dphi_dcos = at::where(far, one, slope);
    } else if (options_.fallback == "easy") {
      const at::Tensor near = cosine > 0;
      out.phi = at::where(near, inside, cosine);
      out.dphi_dcos = at::where(near, slope, one);
    } else {
      out.phi = inside;
      out.dphi_dcos = slope;
    }
    if (options_.gradient == "straight_through") out.dphi_dcos = one;
    out.scale = at::full_like(cosine, options_.scale);
    return out;
  }

 private:
  ArcFaceOptions options_;
};

const bool registered =
    Margins::get().add<ArcFace, ArcFaceOptions>("arcface", "margin in the angle (Deng 2019)");

}  // namespace
}  // namespace facetrain
