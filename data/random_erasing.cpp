// The transform `random_erasing`: a random rectangle becomes noise (Zhong et al. 2020,
// arXiv:1708.04896; defaults of MAE's fine-tuning, whose noise is normal of the pixel).
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/random.h"
#include "data/transform.h"

namespace facetrain {
namespace {

struct RandomErasingOptions {
  double p = 0.25, smallest = 0.02, largest = 1.0 / 3, ratio = 10.0 / 3;
  std::string fill = "noise";
  void fields(auto& f) {
    f("p", p, range(0, 1), "share of the samples that are changed");
    f("smallest", smallest, range(0.0001, 1), "smallest area, of the image's");
    f("largest", largest, range(0.0001, 1), "largest area, of the image's");
    f("ratio", ratio, range(1, 100), "width over height in 1 / ratio ... ratio");
    f("fill", fill, one_of("noise", "grey"), "noise around grey in every value, or grey");
  }
};

class RandomErasing final : public Transform {
 public:
  explicit RandomErasing(const RandomErasingOptions& options) : options_(options) {
    FT_CHECK(options.smallest <= options.largest,
             "random_erasing: wanted smallest <= largest, found {:g} and {:g}", options.smallest,
             options.largest);
  }

  void apply(Sample& sample, uint64_t key) const override {
    Random random(key);
    if (!random.chance(options_.p)) return;
    at::Tensor& image = sample.fields.at("image");
    const int64_t height = image.size(0), width = image.size(1);
    const double log_ratio = std::log(options_.ratio);
    for (int attempt = 0; attempt < 10; ++attempt) {
      const double area =
          static_cast<double>(height * width) * random.uniform(options_.smallest, options_.largest);
      const double ratio = std::exp(random.uniform(-log_ratio, log_ratio));
      const int64_t w = std::lround(std::sqrt(area * ratio));
      const int64_t h = std::lround(std::sqrt(area / ratio));
      if (w < 1 || h < 1 || w >= width || h >= height) continue;
      const int64_t top = random.below(height - h + 1), left = random.below(width - w + 1);
      for (int64_t y = top; y < top + h; ++y) {
        uint8_t* row = image.mutable_data_ptr<uint8_t>() + 3 * (y * width + left);
        for (int64_t i = 0; i < 3 * w; ++i) row[i] = value(random);
      }
      return;
    }
  }

 private:
  // Grey is 127.5; a deviation of 58 is that of ImageNet's pixels, so that noise is about normal
  // after normalisation.
  uint8_t value(Random& random) const {
    if (options_.fill == "grey") return 128;
    return static_cast<uint8_t>(std::clamp(random.normal(127.5, 58), 0.0, 255.0));
  }

  RandomErasingOptions options_;
};

const bool registered = Transforms::get().add<RandomErasing, RandomErasingOptions>(
    "random_erasing", "a random rectangle becomes noise or grey");

}  // namespace
}  // namespace facetrain
