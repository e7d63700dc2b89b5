#include "losses/class_draws.h"

#include <ATen/Parallel.h>

#include <cmath>

#include "core/random.h"
#include "core/torch.h"

namespace facetrain {
namespace {

// Two normal numbers from one word: 32 bits for the radius, 32 for the angle.
void draw_pair(uint64_t word, float deviation, float& first, float& second) {
  const float u = (static_cast<float>(word >> 40) + 0.5f) * 0x1p-24f;  // in (0, 1)
  const float angle = static_cast<float>(word & 0xffffffu) * (6.28318530717958648f * 0x1p-24f);
  const float radius = deviation * std::sqrt(-2.0f * std::log(u));
  first = radius * std::cos(angle);
  second = radius * std::sin(angle);
}

void draw_row(uint64_t key, float deviation, int64_t dim, float* row) {
  for (int64_t j = 0; j < dim; j += 2) {
    float spare;
    draw_pair(mix_bits(key + static_cast<uint64_t>(j / 2) * 0x9e3779b97f4a7c15ULL), deviation,
              row[j], j + 1 < dim ? row[j + 1] : spare);
  }
}

}  // namespace

at::Tensor draw_class_rows(Slice classes, int64_t rows_per_class, int64_t dim, double deviation,
                           uint64_t seed) {
  at::Tensor rows = at::empty({classes.size() * rows_per_class, dim}, at::kFloat);
  float* data = rows.data_ptr<float>();
  at::parallel_for(0, rows.size(0), 64, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const uint64_t key = random_key(seed, name_key("classifier.weight"),
                                      classes.begin + i / rows_per_class, i % rows_per_class);
      draw_row(key, static_cast<float>(deviation), dim, data + i * dim);
    }
  });
  return rows;
}

at::Tensor draw_step_classes(Slice classes, const at::Tensor& positives, double rate, uint64_t seed,
                             int64_t step) {
  at::Tensor chosen = at::empty({classes.size()}, at::kBool);
  bool* in = chosen.data_ptr<bool>();
  at::parallel_for(0, classes.size(), 4096, [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j)
      in[j] = to_unit(random_key(seed, step, classes.begin + j)) < rate;
  });
  const at::Tensor labels = positives.to(at::kCPU, at::kLong).contiguous();
  const int64_t* label = labels.data_ptr<int64_t>();
  for (int64_t i = 0; i < labels.numel(); ++i)
    if (label[i] >= classes.begin && label[i] < classes.end) in[label[i] - classes.begin] = true;
  return chosen.nonzero().view({-1});
}

}  // namespace facetrain
