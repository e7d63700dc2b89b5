// The transform `resized_crop`: a random part of the image, brought to one size. The part is drawn
// as torchvision's RandomResizedCrop draws it (Szegedy et al. 2015, arXiv:1409.4842): ten draws of
// area and ratio, and if none fits, the largest centred part of an allowed ratio; `retry: false`
// takes the first draw, cut to the image (MAE's probe). Points and masks move along.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "core/random.h"
#include "data/resize.h"
#include "data/transform.h"

namespace facetrain {
namespace {

struct ResizedCropOptions {
  int64_t size = 0;
  double p = 1, smallest = 0.08, largest = 1, ratio = 4.0 / 3;
  bool retry = true;
  void fields(auto& f) {
    f("size", size, range(0, 4096), "pixels a side of the result; 0: those of the image");
    f("p", p, range(0, 1), "share of the samples that are cropped; the others are resized whole");
    f("smallest", smallest, range(0.001, 1), "smallest area that is kept, of the image's");
    f("largest", largest, range(0.001, 1), "largest area that is kept, of the image's");
    f("ratio", ratio, range(1, 100), "width over height in 1 / ratio ... ratio");
    f("retry", retry, "draw again when a draw does not fit (torchvision); false: cut it");
  }
};

struct Part {
  int64_t top, left, height, width;
};

at::Tensor cut(const at::Tensor& field, const Part& part) {
  return field.narrow(0, part.top, part.height).narrow(1, part.left, part.width).contiguous();
}

std::span<const uint8_t> bytes(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<uint8_t>(), static_cast<size_t>(tensor.numel())};
}

std::span<uint8_t> room(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<uint8_t>(), static_cast<size_t>(tensor.numel())};
}

class ResizedCrop final : public Transform {
 public:
  explicit ResizedCrop(const ResizedCropOptions& options) : options_(options) {
    FT_CHECK(options.smallest <= options.largest,
             "resized_crop: wanted smallest <= largest, found {:g} and {:g}", options.smallest,
             options.largest);
  }

  void apply(Sample& sample, uint64_t key) const override {
    Random random(key);
    auto& fields = sample.fields;
    at::Tensor& image = fields.at("image");
    const Part part = random.chance(options_.p) ? draw(random, image.size(0), image.size(1))
                                                : Part{0, 0, image.size(0), image.size(1)};
    const int64_t height = options_.size > 0 ? options_.size : image.size(0);
    const int64_t width = options_.size > 0 ? options_.size : image.size(1);
    const at::Tensor inside = cut(image, part);
    image = at::empty({height, width, 3}, at::kByte);
    resize_image(bytes(inside), part.height, part.width, 3, room(image), height, width);
    if (const auto mask = fields.find("mask"); mask != fields.end()) {
      const at::Tensor classes = cut(mask->second, part);
      mask->second = at::empty({height, width}, at::kByte);
      resize_nearest(bytes(classes), part.height, part.width, 1, room(mask->second), height, width);
    }
    for (const char* name : {"landmarks5", "landmarks68"})
      if (const auto points = fields.find(name); points != fields.end())
        move(points->second, part, static_cast<double>(width) / static_cast<double>(part.width),
             static_cast<double>(height) / static_cast<double>(part.height));
  }

 private:
  // Pixel centres lie at whole numbers.
  static void move(at::Tensor& points, const Part& part, double scale_x, double scale_y) {
    auto* xy = points.mutable_data_ptr<float>();
    for (int64_t i = 0; i + 1 < points.numel(); i += 2) {
      xy[i] = static_cast<float>((xy[i] + 0.5 - static_cast<double>(part.left)) * scale_x - 0.5);
      xy[i + 1] =
          static_cast<float>((xy[i + 1] + 0.5 - static_cast<double>(part.top)) * scale_y - 0.5);
    }
  }

  Part draw(Random& random, int64_t height, int64_t width) const {
    const double area = static_cast<double>(height * width), log_ratio = std::log(options_.ratio);
    for (int attempt = 0; attempt < (options_.retry ? 10 : 1); ++attempt) {
      const double wanted = area * random.uniform(options_.smallest, options_.largest);
      const double ratio = std::exp(random.uniform(-log_ratio, log_ratio));
      int64_t w = std::max(std::lround(std::sqrt(wanted * ratio)), 1L);
      int64_t h = std::max(std::lround(std::sqrt(wanted / ratio)), 1L);
      if (!options_.retry) {
        w = std::min(w, width);
        h = std::min(h, height);
      }
      if (w <= width && h <= height) {
        const int64_t top = random.below(height - h + 1);
        return {top, random.below(width - w + 1), h, w};
      }
    }
    const double own = static_cast<double>(width) / static_cast<double>(height);
    const double ratio = std::clamp(own, 1 / options_.ratio, options_.ratio);
    const int64_t w = own <= ratio ? width : std::lround(static_cast<double>(height) * ratio);
    const int64_t h = own < ratio ? std::lround(static_cast<double>(width) / ratio) : height;
    return {(height - h) / 2, (width - w) / 2, h, w};
  }

  ResizedCropOptions options_;
};

const bool registered = Transforms::get().add<ResizedCrop, ResizedCropOptions>(
    "resized_crop", "a random part of the image, brought to one size");

}  // namespace
}  // namespace facetrain
