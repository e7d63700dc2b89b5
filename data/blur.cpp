// The transform `blur`: a Gaussian of random width; the border is repeated.
//
// arcface_torch's strong augmentation blurs a fifth of the images with windows of 3 and 5 pixels,
// which by OpenCV's rule (0.3 ((n - 1) / 2 - 1) + 0.8) are deviations of 0.8 and 1.1.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/random.h"
#include "data/transform.h"

namespace facetrain {
namespace {

struct BlurOptions {
  double p = 0.2, smallest = 0.8, largest = 1.1;
  void fields(auto& f) {
    f("p", p, range(0, 1), "share of the samples that are blurred");
    f("smallest", smallest, range(0.05, 100), "smallest standard deviation, pixels");
    f("largest", largest, range(0.05, 100), "largest standard deviation, pixels");
  }
};

std::vector<float> gaussian(double deviation) {
  const auto radius = static_cast<int64_t>(std::ceil(3 * deviation));
  std::vector<float> weights;
  double sum = 0;
  for (int64_t i = -radius; i <= radius; ++i) {
    const double x = static_cast<double>(i) / deviation;
    weights.push_back(static_cast<float>(std::exp(-0.5 * x * x)));
    sum += weights.back();
  }
  for (float& weight : weights) weight /= static_cast<float>(sum);
  return weights;
}

// One line of the separable filter: `length` values that stand `step` apart.
template <class To>
void filter_line(const float* from, To* to, int64_t length, int64_t step,
                 const std::vector<float>& weights, auto convert) {
  const auto radius = static_cast<int64_t>(weights.size() / 2);
  for (int64_t x = 0; x < length; ++x) {
    float sum = 0;
    for (int64_t k = -radius; k <= radius; ++k)
      sum += weights[k + radius] * from[std::clamp<int64_t>(x + k, 0, length - 1) * step];
    to[x * step] = convert(sum);
  }
}

void blur(at::Tensor& image, double deviation) {
  const std::vector<float> weights = gaussian(deviation);
  const int64_t height = image.size(0), width = image.size(1), row = 3 * width;
  auto* data = image.mutable_data_ptr<uint8_t>();
  const std::vector<float> original(data, data + image.numel());
  std::vector<float> half(original.size());
  for (int64_t y = 0; y < height; ++y)
    for (int64_t c = 0; c < 3; ++c)
      filter_line(original.data() + y * row + c, half.data() + y * row + c, width, 3, weights,
                  [](float value) { return value; });
  for (int64_t x = 0; x < row; ++x)
    filter_line(half.data() + x, data + x, height, row, weights, [](float value) {
      return static_cast<uint8_t>(std::clamp(std::lround(value), 0L, 255L));
    });
}

class Blur final : public Transform {
 public:
  explicit Blur(const BlurOptions& options) : options_(options) {
    FT_CHECK(options.smallest <= options.largest,
             "blur: wanted smallest <= largest, found {:g} and {:g}", options.smallest,
             options.largest);
  }

  void apply(Sample& sample, uint64_t key) const override {
    Random random(key);
    if (!random.chance(options_.p)) return;
    blur(sample.fields.at("image"), random.uniform(options_.smallest, options_.largest));
  }

 private:
  BlurOptions options_;
};

const bool registered = Transforms::get().add<Blur, BlurOptions>("blur", "Gaussian blur");

}  // namespace
}  // namespace facetrain
