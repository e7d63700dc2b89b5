// ElasticFace: a margin of its own for every sample, drawn from N(margin, deviation). Boutros et
// al. 2022, arXiv:2109.09416.
//
// The draw is a function of (run's seed, sample's position in the global stream, view, this
// margin's name), so it is the same at any world size, in any micro-batch and after a resume; a
// position occurs once in a run, so every epoch draws anew and the step is not needed. Outside a
// run's StepScope the seed is 0. With `plus` the margins of a micro-batch are sorted and the
// largest goes to the row with the lowest target cosine, as the paper says; the authors' code
// indexes with the permutation instead of its inverse.
#include <cmath>

#include "core/step_context.h"
#include "losses/angular_margin.h"

namespace facetrain {
namespace {

struct ElasticFaceOptions {
  std::string kind = "arc";
  Scheduled margin = 0.5, scale = 64;
  double deviation = 0.05;
  bool plus = false;
  std::string gradient = "exact", fallback = "none";
  void fields(auto& f) {
    f("kind", kind, one_of("arc", "cos"), "whether the margin is in the angle or in the cosine");
    f("margin", margin, range(0, 1.5707),
      "mean of the margins (cos: published 0.35); a number or a schedule");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
    f("deviation", deviation, range(0, 1),
      "standard deviation of the margins (published with plus: arc 0.0175, cos 0.02)");
    f("plus", plus, "ElasticFace+: the largest margins go to the hardest rows of the batch");
    gradient_field(f, gradient);
    fallback_field(f, fallback);
  }
};

// Standard normal numbers [B] by Box and Muller from the samples' positions.
at::Tensor draw_normals(const at::Tensor& positions, at::ScalarType type) {
  StepContext here = step_context();
  here.positions = positions;
  const StepScope scope(here);
  const at::Tensor uniform = sample_uniform(2, "elasticface").to(at::kDouble);
  const at::Tensor radius = (-2 * (1 - uniform.select(1, 0)).log()).sqrt();
  return (radius * (2 * M_PI * uniform.select(1, 1)).cos()).to(type);
}

class ElasticFace : public Margin {
 public:
  explicit ElasticFace(const ElasticFaceOptions& options) : options_(options) {}
  MarginOutput apply(const MarginInput& input) override {
    const at::Tensor margin = draw(input), one = at::ones_like(margin);
    const AngularTarget target = options_.kind == "arc"
                                     ? add_angle(input.target, margin, options_.fallback)
                                     : AngularTarget{input.target - margin, one, -one};
    return angular_output(target, options_.gradient, input.now(options_.scale));
  }

 private:
  at::Tensor draw(const MarginInput& input) const {
    const at::Tensor margin =
        input.now(options_.margin) +
        options_.deviation * draw_normals(input.position, input.target.scalar_type());
    if (!options_.plus) return margin;
    const at::Tensor hardest_first = std::get<1>(input.target.sort(/*stable=*/true, 0, false));
    const at::Tensor largest_first = std::get<0>(margin.sort(/*stable=*/true, 0, true));
    return at::empty_like(margin).index_copy_(0, hardest_first, largest_first);
  }

  ElasticFaceOptions options_;
};

const bool registered = Margins::get().add<ElasticFace, ElasticFaceOptions>(
    "elasticface", "a random margin for every sample (Boutros 2022)");

}  // namespace
}  // namespace facetrain
