// The transform `partial_crop`: keeps a random part of the image where it is and makes the rest
// black, so that the face stays aligned. AdaFace (Kim et al. 2022, arXiv:2204.00964);
// the part is drawn as torchvision's RandomResizedCrop draws it, but when ten draws do not fit
// nothing is cropped.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/random.h"
#include "data/transform.h"

namespace facetrain {
namespace {

struct PartialCropOptions {
  double p = 0.2, smallest = 0.2, largest = 1, ratio = 4.0 / 3;
  void fields(auto& f) {
    f("p", p, range(0, 1), "share of the samples that are cropped");
    f("smallest", smallest, range(0.001, 1), "smallest area that is kept, of the image's");
    f("largest", largest, range(0.001, 1), "largest area that is kept, of the image's");
    f("ratio", ratio, range(1, 100), "width over height in 1 / ratio ... ratio");
  }
};

struct Part {
  int64_t top, left, height, width;
};

class PartialCrop final : public Transform {
 public:
  explicit PartialCrop(const PartialCropOptions& options) : options_(options) {
    FT_CHECK(options.smallest <= options.largest,
             "partial_crop: wanted smallest <= largest, found {:g} and {:g}", options.smallest,
             options.largest);
  }

  void apply(Sample& sample, uint64_t key) const override {
    Random random(key);
    if (!random.chance(options_.p)) return;
    at::Tensor& image = sample.fields.at("image");
    const Part part = draw(random, image.size(0), image.size(1));
    const auto keep = [&](at::Tensor& field) {
      at::Tensor out = at::zeros_like(field);
      const auto inside = [&part](const at::Tensor& whole) {
        return whole.narrow(0, part.top, part.height).narrow(1, part.left, part.width);
      };
      inside(out).copy_(inside(field));
      field = out;
    };
    keep(image);
    // What cannot be seen is background.
    if (const auto mask = sample.fields.find("mask"); mask != sample.fields.end())
      keep(mask->second);
  }

 private:
  Part draw(Random& random, int64_t height, int64_t width) const {
    const double area = static_cast<double>(height * width);
    for (int attempt = 0; attempt < 10; ++attempt) {
      const double wanted = area * random.uniform(options_.smallest, options_.largest);
      const double log_ratio = std::log(options_.ratio);
      const double ratio = std::exp(random.uniform(-log_ratio, log_ratio));
      const int64_t w = std::lround(std::sqrt(wanted * ratio));
      const int64_t h = std::lround(std::sqrt(wanted / ratio));
      if (w < 1 || h < 1 || w > width || h > height) continue;
      return {random.below(height - h + 1), random.below(width - w + 1), h, w};
    }
    return {0, 0, height, width};
  }

  PartialCropOptions options_;
};

const bool registered = Transforms::get().add<PartialCrop, PartialCropOptions>(
    "partial_crop", "keeps a part of the image in its place, the rest becomes black");

}  // namespace
}  // namespace facetrain
