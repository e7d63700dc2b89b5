// Tables of positions for a grid of patches: MAE's fixed sines and cosines, and a learned table
// taken to another grid. Token (y, x) of a [height, width] grid is row y · width + x.
#pragma once

#include "core/torch.h"

namespace facetrain {

// Fixed positions, fp32 [height · width, dim] (MAE's layout, reference/ssl_peft_unlearning.md 2.1):
// the first half of a row encodes x, the second y; each is [sin(p ω), cos(p ω)] with ω_k =
// 10000^(-k / (dim / 4)). Throws unless dim is a multiple of 4.
torch::Tensor sincos_positions(int64_t dim, int64_t height, int64_t width);

// Bicubic interpolation (A = -0.75, align_corners = false, clamped at the edges) from `from` to
// `to` points of a line, as a matrix, fp64 [to, from]: PyTorch's without antialiasing, and with
// gradients that do not depend on the order of threads.
torch::Tensor bicubic_matrix(int64_t from, int64_t to);

// A grid's sides.
struct Grid {
  int64_t height = 0, width = 0;
  int64_t cells() const { return height * width; }
  bool operator==(const Grid&) const = default;
};

// A table [1, extra + from.cells(), D] for the grid `to`, in its own type: the first `extra` rows
// stay, the rest is interpolated. The same tensor when the grids are equal. Differentiable.
torch::Tensor resize_positions(const torch::Tensor& table, int64_t extra, Grid from, Grid to);

// Whether a stored table of this shape is one of a square grid and of width `dim`.
bool is_position_table(torch::IntArrayRef stored, int64_t extra, int64_t dim);
// Such a table for the square or oblong grid `to`, in fp64; prints that it was interpolated.
torch::Tensor fit_positions(const torch::Tensor& stored, int64_t extra, Grid to);

}  // namespace facetrain
