#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/util/BFloat16.h>
#include <c10/util/Half.h>

#include <array>
#include <cmath>
#include <sstream>

#include "data/loader.h"

namespace facetrain {
namespace {

struct NormalizationOptions {
  std::vector<double> mean{127.5, 127.5, 127.5}, deviation{127.5, 127.5, 127.5};
  void fields(auto& f) {
    f("mean", mean, "of each channel, in 0 ... 255");
    f("deviation", deviation, "of each channel, in 0 ... 255");
  }
};

Normalization check(Normalization normalization, const std::string& place) {
  for (auto* values : {&normalization.mean, &normalization.deviation}) {
    if (values->size() == 1) values->assign(3, values->front());
    FT_CHECK(values->size() == 3, "{}: wanted 3 numbers, or 1 for all channels, found {}", place,
             values->size());
    for (const double value : *values)
      FT_CHECK(std::isfinite(value), "{}: wanted finite numbers, found {}", place, value);
  }
  for (const double value : normalization.deviation)
    FT_CHECK(value > 0, "{}: wanted deviations above 0, found {}", place, value);
  return normalization;
}

Normalization parse_name(const std::string& name, const std::string& place) {
  if (name.empty() || name == "face") return {};
  if (name == "imagenet") {
    return {{0.485 * 255, 0.456 * 255, 0.406 * 255}, {0.229 * 255, 0.224 * 255, 0.225 * 255}};
  }
  std::istringstream text(name);
  std::vector<double> numbers;
  for (double number; text >> number;) numbers.push_back(number);
  FT_CHECK(text.eof() && numbers.size() == 6,
           "{}: wanted face, imagenet, 'mean mean mean deviation deviation deviation' or {{mean: "
           "[..], deviation: [..]}}, found '{}'",
           place, name);
  return check({{numbers[0], numbers[1], numbers[2]}, {numbers[3], numbers[4], numbers[5]}}, place);
}

// 8 pixels at a time: 24 values, whose channels repeat, so that the compiler makes vectors of the
// inner loop.
constexpr int64_t kRun = 24;

template <class Compute, class Out>
void normalise_run(const uint8_t* in, Out* out, int64_t count,
                   const std::array<Compute, kRun>& mean,
                   const std::array<Compute, kRun>& deviation) {
  int64_t i = 0;
  for (; i + kRun <= count; i += kRun) {
    for (int64_t j = 0; j < kRun; ++j)
      out[i + j] = static_cast<Out>((static_cast<Compute>(in[i + j]) - mean[j]) / deviation[j]);
  }
  for (int64_t j = 0; i < count; ++i, ++j)
    out[i] = static_cast<Out>((static_cast<Compute>(in[i]) - mean[j]) / deviation[j]);
}

template <class Compute, class Out>
void normalise_cpu(const uint8_t* in, Out* out, int64_t count, const Normalization& normalization) {
  std::array<Compute, kRun> mean{}, deviation{};
  for (int64_t j = 0; j < kRun; ++j) {
    mean[j] = static_cast<Compute>(normalization.mean[j % 3]);
    deviation[j] = static_cast<Compute>(normalization.deviation[j % 3]);
  }
  const int64_t runs = (count + kRun - 1) / kRun;
  at::parallel_for(0, runs, 4096, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * kRun, last = std::min(end * kRun, count);
    normalise_run(in + first, out + first, last - first, mean, deviation);
  });
}

at::Tensor normalise_by_ops(const at::Tensor& images, const Normalization& normalization,
                            at::ScalarType dtype) {
  const auto compute = dtype == at::kDouble ? at::kDouble : at::kFloat;
  const auto options = at::TensorOptions(compute).device(images.device());
  const at::Tensor mean = at::tensor(normalization.mean, options);
  const at::Tensor deviation = at::tensor(normalization.deviation, options);
  return images.to(compute).sub_(mean).div_(deviation).to(dtype).permute({0, 3, 1, 2});
}

}  // namespace

Normalization Normalization::parse(const Config& section) {
  const auto& node = section.node();
  if (node.kind == ConfigNode::Kind::kScalar) return parse_name(node.scalar, section.place());
  const bool numbers = section.has("mean") || section.has("deviation");
  if (!numbers) {
    Config named = section;
    named.set_default_name("face");
    return parse_name(named.name(), section.place());
  }
  const auto options = section.as<NormalizationOptions>();
  return check({options.mean, options.deviation}, section.place());
}

at::Tensor normalise(const at::Tensor& images, const Normalization& normalization,
                     at::ScalarType dtype) {
  FT_CHECK(images.dim() == 4 && images.size(3) == 3 && images.scalar_type() == at::kByte,
           "normalise: wanted uint8 images [B, H, W, 3], found {} of {} dimensions",
           c10::toString(images.scalar_type()), images.dim());
  if (!images.device().is_cpu()) return normalise_by_ops(images, normalization, dtype);
  const at::Tensor in = images.contiguous();
  // [B, H, W, 3] in memory is [B, 3, H, W] with channels_last strides: one pass, no transposition.
  at::Tensor out = at::empty(in.sizes(), dtype);
  const auto* from = in.const_data_ptr<uint8_t>();
  switch (dtype) {
    case at::kFloat:
      normalise_cpu<float>(from, out.mutable_data_ptr<float>(), in.numel(), normalization);
      break;
    case at::kDouble:
      normalise_cpu<double>(from, out.mutable_data_ptr<double>(), in.numel(), normalization);
      break;
    case at::kBFloat16:
      normalise_cpu<float>(from, out.mutable_data_ptr<c10::BFloat16>(), in.numel(), normalization);
      break;
    case at::kHalf:
      normalise_cpu<float>(from, out.mutable_data_ptr<c10::Half>(), in.numel(), normalization);
      break;
    default:
      FT_FAIL("normalise: wanted float, double, bfloat16 or half, found {}", c10::toString(dtype));
  }
  return out.permute({0, 3, 1, 2});
}

}  // namespace facetrain
