#include "models/position_table.h"

#include <algorithm>
#include <cmath>

#include "core/check.h"
#include "core/log.h"
#include "models/layers.h"

namespace facetrain {
namespace {

using torch::Tensor;

// [n, dim]: sines, then cosines, of the positions 0 ... n - 1.
Tensor sincos_line(int64_t dim, int64_t n) {
  const auto k = torch::arange(dim / 2, torch::kDouble);
  const auto frequency = at::pow(10000.0, -k / (static_cast<double>(dim) / 2));
  const auto angle = torch::arange(n, torch::kDouble).unsqueeze(1) * frequency;
  return torch::cat({angle.sin(), angle.cos()}, 1);
}

// Weight of a point at this distance (Keys 1981).
double cubic(double distance) {
  constexpr double kA = -0.75;
  const double d = std::abs(distance);
  if (d <= 1) return ((kA + 2) * d - (kA + 3)) * d * d + 1;
  if (d < 2) return ((kA * d - 5 * kA) * d + 8 * kA) * d - 4 * kA;
  return 0;
}

// Cells a side of a square grid's table; 0 when it is none.
int64_t square_side(int64_t rows, int64_t extra) {
  if (rows <= extra) return 0;
  const int64_t side = std::llround(std::sqrt(static_cast<double>(rows - extra)));
  return side * side == rows - extra ? side : 0;
}

}  // namespace

Tensor sincos_positions(int64_t dim, int64_t height, int64_t width) {
  FT_CHECK(dim % 4 == 0, "sine-cosine positions want a width that is a multiple of 4, found {}",
           dim);
  const auto x = sincos_line(dim / 2, width).unsqueeze(0).expand({height, width, dim / 2});
  const auto y = sincos_line(dim / 2, height).unsqueeze(1).expand({height, width, dim / 2});
  return torch::cat({x, y}, 2).view({height * width, dim}).to(torch::kFloat);
}

Tensor bicubic_matrix(int64_t from, int64_t to) {
  auto matrix = torch::zeros({to, from}, torch::kDouble);
  auto cells = matrix.accessor<double, 2>();
  const double scale = static_cast<double>(from) / static_cast<double>(to);
  for (int64_t i = 0; i < to; ++i) {
    const double at = (static_cast<double>(i) + 0.5) * scale - 0.5;
    const auto left = static_cast<int64_t>(std::floor(at));
    for (int64_t j = left - 1; j <= left + 2; ++j)
      cells[i][std::clamp<int64_t>(j, 0, from - 1)] += cubic(at - static_cast<double>(j));
  }
  return matrix;
}

Tensor resize_positions(const Tensor& table, int64_t extra, Grid from, Grid to) {
  FT_CHECK(table.dim() == 3 && table.size(0) == 1 && table.size(1) == extra + from.cells(),
           "wanted a position table [1, {} + {} x {}, D], found [{}]", extra, from.height,
           from.width, fmt::join(table.sizes(), ", "));
  if (from == to) return table;
  const NoAutocast full_precision(c10::autocast_dispatch_keyset);
  const int64_t dim = table.size(2);
  const auto rows = bicubic_matrix(from.height, to.height).to(table.options());
  const auto columns = bicubic_matrix(from.width, to.width).to(table.options());
  const auto grid = table.slice(1, extra).reshape({from.height, from.width * dim});
  const auto tall = rows.mm(grid).view({to.height, from.width, dim});
  const auto resized = at::matmul(columns, tall).reshape({1, to.cells(), dim});
  return extra == 0 ? resized : torch::cat({table.slice(1, 0, extra), resized}, 1);
}

bool is_position_table(torch::IntArrayRef stored, int64_t extra, int64_t dim) {
  return stored.size() == 3 && stored[0] == 1 && stored[2] == dim && square_side(stored[1], extra);
}

Tensor fit_positions(const Tensor& stored, int64_t extra, Grid to) {
  const int64_t side = square_side(stored.size(1), extra);
  log_info("positions of a {} x {} grid of patches interpolated to {} x {}", side, side, to.height,
           to.width);
  return resize_positions(stored.to(torch::kDouble), extra, {side, side}, to);
}

}  // namespace facetrain
