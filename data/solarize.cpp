// The transform `solarize`: values from a threshold on are inverted (BYOL's second view, Grill et
// al. 2020, arXiv:2006.07733).
#include <ATen/ATen.h>

#include "core/random.h"
#include "data/transform.h"

namespace facetrain {
namespace {

struct SolarizeOptions {
  double p = 0.2;
  int64_t threshold = 128;
  void fields(auto& f) {
    f("p", p, range(0, 1), "share of the samples that are changed");
    f("threshold", threshold, range(0, 255), "values from here on become 255 - value");
  }
};

class Solarize final : public Transform {
 public:
  explicit Solarize(const SolarizeOptions& options) : options_(options) {}

  void apply(Sample& sample, uint64_t key) const override {
    if (!Random(key).chance(options_.p)) return;
    at::Tensor& image = sample.fields.at("image");
    auto* data = image.mutable_data_ptr<uint8_t>();
    for (int64_t i = 0; i < image.numel(); ++i)
      if (data[i] >= options_.threshold) data[i] = static_cast<uint8_t>(255 - data[i]);
  }

 private:
  SolarizeOptions options_;
};

const bool registered = Transforms::get().add<Solarize, SolarizeOptions>(
    "solarize", "inverts values from a threshold on");

}  // namespace
}  // namespace facetrain
