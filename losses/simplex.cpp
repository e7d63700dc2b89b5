#include "losses/simplex.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/torch.h"

namespace facetrain {

at::Tensor simplex_rows(Slice classes, int64_t total, int64_t dim) {
  FT_CHECK(total >= 2, "classifier.fixed: a simplex wants at least two classes, found {}", total);
  FT_CHECK(dim >= total - 1,
           "classifier.fixed: a simplex of {} classes wants embeddings of at least {} dimensions, "
           "found {}; set model.embedding: {}, or fewer classifier.classes",
           total, total - 1, dim, total - 1);
  const int64_t n = total - 1;
  const double last = (1 - std::sqrt(static_cast<double>(total))) / static_cast<double>(n);
  const double mean = (1 + last) / static_cast<double>(total);
  at::Tensor rows = at::zeros({classes.size(), dim}, at::kFloat);
  for (int64_t j = classes.begin; j < classes.end; ++j) {
    // One value where the class is, another in the other places.
    const double other = j < n ? -mean : last - mean;
    const double own = j < n ? 1 - mean : other;
    const double norm = std::sqrt(own * own + static_cast<double>(n - 1) * other * other);
    float* row = rows.data_ptr<float>() + (j - classes.begin) * dim;
    std::fill(row, row + n, static_cast<float>(other / norm));
    if (j < n) row[j] = static_cast<float>(own / norm);
  }
  return rows;
}

}  // namespace facetrain
