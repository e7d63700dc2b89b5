// The transform `color_jitter`: brightness, contrast, saturation and hue, each by a random amount,
// in random order (torchvision's ColorJitter; AdaFace, Kim et al. 2022, arXiv:2204.00964, trains
// with 0.5, 0.5, 0.5 on a fifth of the images).
#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>
#include <vector>

#include "core/random.h"
#include "data/transform.h"

namespace facetrain {
namespace {

struct ColorJitterOptions {
  double p = 0.2;
  std::vector<double> brightness{0.5}, contrast{0.5}, saturation{0.5}, hue{0};
  void fields(auto& f) {
    f("p", p, range(0, 1), "share of the samples that are changed");
    f("brightness", brightness, "b: factor in 1 - b ... 1 + b; or [low, high]; 0: off");
    f("contrast", contrast, "the same, around the mean of the grey picture");
    f("saturation", saturation, "the same, around the grey of each pixel");
    f("hue", hue, "h: turn in -h ... h degrees; or [low, high]; 0: off");
  }
};

struct Interval {
  double low, high;
};

Interval interval_of(const char* name, const std::vector<double>& value, double centre,
                     double lowest) {
  FT_CHECK(value.size() == 1 || value.size() == 2,
           "color_jitter: {} wants one number or [low, high], found {} numbers", name,
           value.size());
  const Interval interval = value.size() == 2
                                ? Interval{value[0], value[1]}
                                : Interval{std::max(lowest, centre - value[0]), centre + value[0]};
  FT_CHECK(interval.low >= lowest && interval.low <= interval.high && interval.high < 1e4,
           "color_jitter: {} wants {:g} <= low <= high, found {:g} and {:g}", name, lowest,
           interval.low, interval.high);
  return interval;
}

using Pixel = std::array<float, 3>;

float grey_of(const Pixel& c) { return 0.299f * c[0] + 0.587f * c[1] + 0.114f * c[2]; }

uint8_t to_byte(float value) {
  return static_cast<uint8_t>(std::clamp(std::lround(value), 0L, 255L));
}

template <class Change>
void for_pixels(at::Tensor& image, Change change) {
  auto* data = image.mutable_data_ptr<uint8_t>();
  for (int64_t i = 0; i < image.numel(); i += 3) {
    const Pixel changed = change(Pixel{static_cast<float>(data[i]), static_cast<float>(data[i + 1]),
                                       static_cast<float>(data[i + 2])});
    for (int c = 0; c < 3; ++c) data[i + c] = to_byte(changed[c]);
  }
}

float mean_grey(const at::Tensor& image) {
  const auto* data = image.const_data_ptr<uint8_t>();
  double sum = 0;
  for (int64_t i = 0; i < image.numel(); i += 3)
    sum += grey_of({static_cast<float>(data[i]), static_cast<float>(data[i + 1]),
                    static_cast<float>(data[i + 2])});
  return static_cast<float>(sum / (static_cast<double>(image.numel()) / 3));
}

// base + factor (pixel - base), the base made from the pixel.
template <class Base>
void blend(at::Tensor& image, double factor, Base base) {
  const auto f = static_cast<float>(factor);
  for_pixels(image, [&](const Pixel& pixel) {
    const float b = base(pixel);
    return Pixel{b + f * (pixel[0] - b), b + f * (pixel[1] - b), b + f * (pixel[2] - b)};
  });
}

// Hue, chroma and value of the HSV hexagon; value and chroma stay.
Pixel turn_hue(const Pixel& pixel, float degrees) {
  const float high = std::max({pixel[0], pixel[1], pixel[2]});
  const float chroma = high - std::min({pixel[0], pixel[1], pixel[2]});
  if (chroma == 0) return pixel;
  float sector = high == pixel[0]   ? (pixel[1] - pixel[2]) / chroma
                 : high == pixel[1] ? (pixel[2] - pixel[0]) / chroma + 2
                                    : (pixel[0] - pixel[1]) / chroma + 4;
  sector += degrees / 60;
  const auto channel = [&](float offset) {
    const float k = std::fmod(std::fmod(offset + sector, 6.0f) + 6.0f, 6.0f);
    return high - chroma * std::clamp(std::min(k, 4 - k), 0.0f, 1.0f);
  };
  return {channel(5), channel(3), channel(1)};
}

class ColorJitter final : public Transform {
 public:
  explicit ColorJitter(const ColorJitterOptions& options)
      : p_(options.p),
        ranges_{interval_of("brightness", options.brightness, 1, 0),
                interval_of("contrast", options.contrast, 1, 0),
                interval_of("saturation", options.saturation, 1, 0),
                interval_of("hue", options.hue, 0, -360)} {}

  void apply(Sample& sample, uint64_t key) const override {
    Random random(key);
    if (!random.chance(p_)) return;
    std::array<int, 4> order{0, 1, 2, 3};
    for (int64_t i = 3; i > 0; --i) std::swap(order[i], order[random.below(i + 1)]);
    at::Tensor& image = sample.fields.at("image");
    for (const int step : order) {
      const double amount = random.uniform(ranges_[step].low, ranges_[step].high);
      change(image, step, amount);
    }
  }

 private:
  static void change(at::Tensor& image, int step, double amount) {
    if (amount == (step == 3 ? 0 : 1)) return;
    if (step == 0) blend(image, amount, [](const Pixel&) { return 0.0f; });
    if (step == 1) blend(image, amount, [grey = mean_grey(image)](const Pixel&) { return grey; });
    if (step == 2) blend(image, amount, grey_of);
    if (step == 3)
      for_pixels(image, [turn = static_cast<float>(amount)](const Pixel& pixel) {
        return turn_hue(pixel, turn);
      });
  }

  double p_;
  std::array<Interval, 4> ranges_;
};

const bool registered = Transforms::get().add<ColorJitter, ColorJitterOptions>(
    "color_jitter", "changes brightness, contrast, saturation and hue");

}  // namespace
}  // namespace facetrain
