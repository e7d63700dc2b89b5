// The transform `flip`: the picture in a mirror, with every label that has a left and a right.
#include <ATen/ATen.h>
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <numeric>
#include <utility>
#include <vector>

#include "core/random.h"
#include "data/transform.h"

namespace facetrain {
namespace {

struct FlipOptions {
  double p = 0.5;
  void fields(auto& f) { f("p", p, range(0, 1), "share of the samples that are mirrored"); }
};

using Swaps = std::vector<std::pair<int64_t, int64_t>>;

// iBUG 300-W order: jaw, brows, nostrils, eyes, outer and inner lips; the points that are absent
// lie on the mirror line.
const Swaps kSwaps68 = {{0, 16},  {1, 15},  {2, 14},  {3, 13},  {4, 12},  {5, 11},
                        {6, 10},  {7, 9},   {17, 26}, {18, 25}, {19, 24}, {20, 23},
                        {21, 22}, {31, 35}, {32, 34}, {36, 45}, {37, 44}, {38, 43},
                        {39, 42}, {40, 47}, {41, 46}, {48, 54}, {49, 53}, {50, 52},
                        {55, 59}, {56, 58}, {60, 64}, {61, 63}, {65, 67}};
const Swaps kSwaps5 = {{0, 1}, {3, 4}};
const Swaps kMaskSwaps = {{2, 3}, {4, 5}};  // LaPa: left and right brow, left and right eye

// Rows [H, W, 3] reversed in place: five pixels at a time by one shuffle of bytes.
void mirror_colours(at::Tensor& image) {
  const int64_t width = image.size(1), stride = 3 * width;
  const __m128i order = _mm_setr_epi8(12, 13, 14, 9, 10, 11, 6, 7, 8, 3, 4, 5, 0, 1, 2, 15);
  std::vector<uint8_t> row(static_cast<size_t>(stride) + 16);
  auto* pixels = image.mutable_data_ptr<uint8_t>();
  for (int64_t y = 0; y < image.size(0); ++y, pixels += stride) {
    std::copy_n(pixels, stride, row.data());
    int64_t x = 0;
    for (; x + 6 <= width;
         x += 5) {  // a store of 16 bytes: the 16th is overwritten by the next one
      const auto* from = reinterpret_cast<const __m128i*>(row.data() + stride - 3 * (x + 5));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(pixels + 3 * x),
                       _mm_shuffle_epi8(_mm_loadu_si128(from), order));
    }
    for (; x < width; ++x) std::copy_n(row.data() + 3 * (width - 1 - x), 3, pixels + 3 * x);
  }
}

void mirror_classes(at::Tensor& mask) {
  auto* first = mask.mutable_data_ptr<uint8_t>();
  const int64_t width = mask.size(1);
  for (int64_t y = 0; y < mask.size(0); ++y)
    std::reverse(first + y * width, first + (y + 1) * width);
}

template <class T>
void swap_rows(at::Tensor& values, const Swaps& swaps) {
  const int64_t columns = values.numel() / values.size(0);
  auto* data = values.mutable_data_ptr<T>();
  for (const auto& [a, b] : swaps)
    std::swap_ranges(data + a * columns, data + (a + 1) * columns, data + b * columns);
}

void mirror_points(at::Tensor& points, int64_t width, const Swaps& swaps) {
  auto* xy = points.mutable_data_ptr<float>();
  for (int64_t i = 0; i < points.numel(); i += 2) xy[i] = static_cast<float>(width - 1) - xy[i];
  swap_rows<float>(points, swaps);
}

void swap_classes(at::Tensor& mask) {
  std::array<uint8_t, 256> table{};
  std::iota(table.begin(), table.end(), uint8_t{0});
  for (const auto& [a, b] : kMaskSwaps) std::swap(table[a], table[b]);
  auto* data = mask.mutable_data_ptr<uint8_t>();
  std::transform(data, data + mask.numel(), data, [&](uint8_t c) { return table[c]; });
}

class Flip final : public Transform {
 public:
  explicit Flip(const FlipOptions& options) : options_(options) {}

  void apply(Sample& sample, uint64_t key) const override {
    if (!Random(key).chance(options_.p)) return;
    auto& fields = sample.fields;
    at::Tensor& image = fields.at("image");
    mirror_colours(image);
    const auto with = [&fields](const char* name, auto change) {
      if (const auto found = fields.find(name); found != fields.end()) change(found->second);
    };
    const int64_t width = image.size(1);
    with("landmarks5", [&](at::Tensor& points) { mirror_points(points, width, kSwaps5); });
    with("landmarks68", [&](at::Tensor& points) { mirror_points(points, width, kSwaps68); });
    with("visibility68", [](at::Tensor& seen) { swap_rows<uint8_t>(seen, kSwaps68); });
    with("pose", [](at::Tensor& pose) {
      auto* angle = pose.mutable_data_ptr<float>();
      angle[0] = -angle[0];  // yaw
      angle[2] = -angle[2];  // roll
    });
    with("gaze", [](at::Tensor& gaze) {
      auto* angle = gaze.mutable_data_ptr<float>();
      angle[0] = -angle[0];
    });
    with("mask", [](at::Tensor& mask) {
      mirror_classes(mask);
      swap_classes(mask);
    });
  }

 private:
  FlipOptions options_;
};

const bool registered = Transforms::get().add<Flip, FlipOptions>(
    "flip", "mirrors the image with its landmarks, mask, pose and gaze");

}  // namespace
}  // namespace facetrain
