// Sub-center ArcFace: K rows a class, of which the nearest counts, so that mislabelled images may
// gather around a row of their own: c_j = max over K, then ArcFace. Deng et al. 2020 (ECCV,
// "Sub-center ArcFace: Boosting Face Recognition by Large-scale Noisy Web Faces").
#include "losses/angular_margin.h"

namespace facetrain {
namespace {

struct SubcenterArcFaceOptions {
  int64_t centers = 3;
  Scheduled margin = 0.5, scale = 64;
  std::string gradient = "exact", fallback = "hard";
  void fields(auto& f) {
    f("centers", centers, range(1, 64), "K, rows of the classifier a class");
    f("margin", margin, range(0, 1.5707),
      "added to the target's angle, radians; a number or a schedule");
    f("scale", scale, range(1, 1024), "multiplies the cosines; a number or a schedule");
    gradient_field(f, gradient);
    fallback_field(f, fallback);
  }
};

class SubcenterArcFace : public Margin {
 public:
  explicit SubcenterArcFace(const SubcenterArcFaceOptions& options) : options_(options) {}
  MarginRule rule() const override {
    MarginRule rule;
    rule.rows_per_class = options_.centers;
    return rule;
  }
  MarginOutput apply(const MarginInput& input) override {
    return angular_output(add_angle(input.target, input.now(options_.margin), options_.fallback),
                          options_.gradient, input.now(options_.scale));
  }

 private:
  SubcenterArcFaceOptions options_;
};

const bool registered = Margins::get().add<SubcenterArcFace, SubcenterArcFaceOptions>(
    "subcenter_arcface", "ArcFace with K rows a class (Deng 2020)");

}  // namespace
}  // namespace facetrain
