#include "data/resize.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/check.h"

namespace facetrain {
namespace {

constexpr int kWeightBits = 14;  // of one filter weight
constexpr int kKeepBits = 6;     // below the point, between the two passes

// The inputs and weights of each output pixel of one axis.
struct Axis {
  std::vector<int64_t> first;    // [out]
  std::vector<int32_t> weights;  // [out, taps], sum of a row = 1 << kWeightBits
  int64_t taps = 0;
};

Axis make_axis(int64_t in, int64_t out) {
  const double scale = static_cast<double>(in) / static_cast<double>(out);
  const double reach = std::max(scale, 1.0);
  Axis axis;
  axis.taps = std::min<int64_t>(in, static_cast<int64_t>(std::ceil(reach)) * 2 + 1);
  axis.weights.assign(static_cast<size_t>(out * axis.taps), 0);
  for (int64_t o = 0; o < out; ++o) {
    const double centre = (static_cast<double>(o) + 0.5) * scale;
    const auto low = std::clamp<int64_t>(static_cast<int64_t>(std::floor(centre - reach + 0.5)), 0,
                                         in - axis.taps);
    std::vector<double> weight(static_cast<size_t>(axis.taps));
    double sum = 0;
    for (int64_t t = 0; t < axis.taps; ++t) {
      const double distance = std::abs(static_cast<double>(low + t) + 0.5 - centre) / reach;
      sum += weight[t] = std::max(0.0, 1.0 - distance);
    }
    int32_t left = 1 << kWeightBits;
    int32_t* row = &axis.weights[static_cast<size_t>(o * axis.taps)];
    for (int64_t t = 0; t < axis.taps; ++t) {
      row[t] = static_cast<int32_t>(std::lround(weight[t] / sum * (1 << kWeightBits)));
      left -= row[t];
    }
    *std::max_element(row, row + axis.taps) += left;  // so that a flat image stays as it is
    axis.first.push_back(low);
  }
  return axis;
}

void check_sizes(std::span<const uint8_t> in, int64_t height, int64_t width, int64_t channels,
                 std::span<uint8_t> out, int64_t out_height, int64_t out_width) {
  FT_CHECK(height > 0 && width > 0 && channels > 0 && out_height > 0 && out_width > 0,
           "resize: wanted positive sizes, found {} x {} x {} -> {} x {}", height, width, channels,
           out_height, out_width);
  FT_CHECK(static_cast<int64_t>(in.size()) == height * width * channels &&
               static_cast<int64_t>(out.size()) == out_height * out_width * channels,
           "resize: wanted {} and {} bytes, found {} and {}", height * width * channels,
           out_height * out_width * channels, in.size(), out.size());
}

// One output row from the input rows that it needs: row after row, so that the compiler makes
// vectors of it.
void blend_rows(const uint8_t* in, int64_t stride, const int32_t* weights, int64_t taps,
                std::vector<int32_t>& sums, std::vector<int32_t>& row) {
  std::fill(sums.begin(), sums.end(), 1 << (kWeightBits - kKeepBits - 1));
  int32_t* sum = sums.data();
  for (int64_t t = 0; t < taps; ++t) {
    const int32_t weight = weights[t];
    const uint8_t* line = in + t * stride;
    if (weight == 0) continue;
    for (int64_t i = 0; i < stride; ++i) sum[i] += weight * line[i];
  }
  for (int64_t i = 0; i < stride; ++i) row[i] = sum[i] >> (kWeightBits - kKeepBits);
}

}  // namespace

void resize_image(std::span<const uint8_t> in, int64_t height, int64_t width, int64_t channels,
                  std::span<uint8_t> out, int64_t out_height, int64_t out_width) {
  check_sizes(in, height, width, channels, out, out_height, out_width);
  const Axis vertical = make_axis(height, out_height), horizontal = make_axis(width, out_width);
  const int64_t stride = width * channels;
  std::vector<int32_t> sums(static_cast<size_t>(stride)), row(static_cast<size_t>(stride));
  constexpr int kShift = kWeightBits + kKeepBits;
  for (int64_t y = 0; y < out_height; ++y) {
    blend_rows(in.data() + vertical.first[y] * stride, stride,
               &vertical.weights[static_cast<size_t>(y * vertical.taps)], vertical.taps, sums, row);
    uint8_t* target = out.data() + y * out_width * channels;
    for (int64_t x = 0; x < out_width; ++x) {
      const int32_t* weights = &horizontal.weights[static_cast<size_t>(x * horizontal.taps)];
      const int32_t* source = row.data() + horizontal.first[x] * channels;
      for (int64_t c = 0; c < channels; ++c) {
        int64_t sum = 1 << (kShift - 1);
        for (int64_t t = 0; t < horizontal.taps; ++t)
          sum += int64_t{weights[t]} * source[t * channels + c];
        target[x * channels + c] = static_cast<uint8_t>(std::clamp<int64_t>(sum >> kShift, 0, 255));
      }
    }
  }
}

void resize_nearest(std::span<const uint8_t> in, int64_t height, int64_t width, int64_t channels,
                    std::span<uint8_t> out, int64_t out_height, int64_t out_width) {
  check_sizes(in, height, width, channels, out, out_height, out_width);
  for (int64_t y = 0; y < out_height; ++y) {
    const uint8_t* line = in.data() + (2 * y + 1) * height / (2 * out_height) * width * channels;
    for (int64_t x = 0; x < out_width; ++x) {
      const uint8_t* pixel = line + (2 * x + 1) * width / (2 * out_width) * channels;
      std::copy_n(pixel, channels, out.data() + (y * out_width + x) * channels);
    }
  }
}

}  // namespace facetrain
