#include "eval/norms.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <numeric>

#include "core/check.h"

namespace facetrain {

at::Tensor plain_rows(const at::Tensor& embeddings) {
  FT_CHECK(embeddings.dim() == 2 && embeddings.is_floating_point(),
           "wanted embeddings [N, D] of floats, found {} of {}",
           fmt::join(embeddings.sizes(), " x "), toString(embeddings.scalar_type()));
  return embeddings.to(at::kCPU, at::kFloat).contiguous();
}

std::vector<double> norms_of(const at::Tensor& rows, std::span<const int64_t> used,
                             const std::vector<std::string>& names,
                             std::span<const int64_t> numbers) {
  std::vector<double> norms(static_cast<size_t>(rows.size(0)), 0.0);
  const float* data = rows.const_data_ptr<float>();
  const int64_t dim = rows.size(1);
  for (const int64_t row : used)
    FT_CHECK(row >= 0 && row < rows.size(0),
             "row {} is asked for; the embeddings have rows 0 to {}", row, rows.size(0) - 1);
  for (const int64_t row : used) {
    double& norm = norms[static_cast<size_t>(row)];
    if (norm != 0) continue;
    double sum = 0;
    for (int64_t k = 0; k < dim; ++k)
      sum += static_cast<double>(data[row * dim + k]) * data[row * dim + k];
    const int64_t number = numbers.empty() ? row : numbers[static_cast<size_t>(row)];
    const std::string name = names.empty() ? "" : fmt::format(" ({})", names.at(row));
    FT_CHECK(std::isfinite(sum),
             "the embedding of row {}{} holds NaN or infinity; wanted numbers: compute it again, "
             "or look "
             "at the image and at the weights",
             number, name);
    FT_CHECK(
        sum > 0,
        "the embedding of row {}{} is all zeros and has no direction: look at the image and at "
        "the weights",
        number, name);
    norm = std::sqrt(sum);
  }
  return norms;
}

void check_directions(const at::Tensor& rows, const std::vector<std::string>& names,
                      std::span<const int64_t> numbers) {
  std::vector<int64_t> all(static_cast<size_t>(rows.size(0)));
  std::iota(all.begin(), all.end(), 0);
  norms_of(plain_rows(rows), all, names, numbers);
}

}  // namespace facetrain
