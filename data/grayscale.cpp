// The transform `grayscale`: all three channels become the picture's grey (ITU-R BT.601 weights).
#include <ATen/ATen.h>

#include <cmath>

#include "core/random.h"
#include "data/transform.h"

namespace facetrain {
namespace {

struct GrayscaleOptions {
  double p = 0.1;
  void fields(auto& f) { f("p", p, range(0, 1), "share of the samples that lose their colour"); }
};

class Grayscale final : public Transform {
 public:
  explicit Grayscale(const GrayscaleOptions& options) : options_(options) {}

  void apply(Sample& sample, uint64_t key) const override {
    if (!Random(key).chance(options_.p)) return;
    at::Tensor& image = sample.fields.at("image");
    auto* data = image.mutable_data_ptr<uint8_t>();
    for (int64_t i = 0; i < image.numel(); i += 3) {
      const double grey = 0.299 * data[i] + 0.587 * data[i + 1] + 0.114 * data[i + 2];
      data[i] = data[i + 1] = data[i + 2] = static_cast<uint8_t>(std::lround(grey));
    }
  }

 private:
  GrayscaleOptions options_;
};

const bool registered =
    Transforms::get().add<Grayscale, GrayscaleOptions>("grayscale", "takes the colour away");

}  // namespace
}  // namespace facetrain
