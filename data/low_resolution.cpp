// The transform `low_resolution`: shrinks the image to a random side and enlarges it again, each
// with a random filter. AdaFace (Kim et al. 2022, arXiv:2204.00964) does it to a fifth
// of the images with sides of 0.2 ... 1; arcface_torch's strong augmentation to a tenth with 0.5
// ... 0.8 and bilinear filters.
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/random.h"
#include "data/resize.h"
#include "data/transform.h"

namespace facetrain {
namespace {

struct LowResolutionOptions {
  double p = 0.2, smallest = 0.2, largest = 1;
  std::string filter = "random";
  void fields(auto& f) {
    f("p", p, range(0, 1), "share of the samples that are changed");
    f("smallest", smallest, range(0.01, 1), "smallest side, of the image's");
    f("largest", largest, range(0.01, 1), "largest side, of the image's");
    f("filter", filter, one_of("random", "bilinear"),
      "random: nearest, bilinear, area, bicubic or antialiased, drawn for each way; or bilinear");
  }
};

constexpr int kFilters = 5;
constexpr int kBilinear = 1;

at::Tensor resized(const at::Tensor& image, int64_t height, int64_t width, int filter) {
  const std::array<int64_t, 2> size{height, width};
  if (filter == 0 || filter == 4) {
    at::Tensor out = at::empty({height, width, 3}, at::kByte);
    const std::span from(image.const_data_ptr<uint8_t>(), static_cast<size_t>(image.numel()));
    const std::span to(out.mutable_data_ptr<uint8_t>(), static_cast<size_t>(out.numel()));
    const auto resize = filter == 0 ? resize_nearest : resize_image;
    resize(from, image.size(0), image.size(1), 3, to, height, width);
    return out;
  }
  const at::Tensor planes = image.permute({2, 0, 1}).unsqueeze(0).to(at::kFloat);
  const at::Tensor out = filter == kBilinear ? at::upsample_bilinear2d(planes, size, false)
                         : filter == 2       ? at::adaptive_avg_pool2d(planes, size)
                                             : at::upsample_bicubic2d(planes, size, false);
  return out.round().clamp(0, 255).to(at::kByte).squeeze(0).permute({1, 2, 0}).contiguous();
}

class LowResolution final : public Transform {
 public:
  explicit LowResolution(const LowResolutionOptions& options) : options_(options) {
    FT_CHECK(options.smallest <= options.largest,
             "low_resolution: wanted smallest <= largest, found {:g} and {:g}", options.smallest,
             options.largest);
  }

  void apply(Sample& sample, uint64_t key) const override {
    Random random(key);
    if (!random.chance(options_.p)) return;
    at::Tensor& image = sample.fields.at("image");
    const double share = random.uniform(options_.smallest, options_.largest);
    const int64_t height = image.size(0), width = image.size(1);
    const auto small = [share](int64_t side) {
      return std::max<int64_t>(1, std::lround(share * static_cast<double>(side)));
    };
    const bool any = options_.filter == "random";
    const int down = any ? static_cast<int>(random.below(kFilters)) : kBilinear;
    const int up = any ? static_cast<int>(random.below(kFilters)) : kBilinear;
    image = resized(resized(image, small(height), small(width), down), height, width, up);
  }

 private:
  LowResolutionOptions options_;
};

const bool registered = Transforms::get().add<LowResolution, LowResolutionOptions>(
    "low_resolution", "shrinks the image and enlarges it again");

}  // namespace
}  // namespace facetrain
