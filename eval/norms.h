// Lengths of embeddings, checked: what every protocol does before it compares them.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <string>
#include <vector>

namespace facetrain {

// Any floating type on any device -> float32 [N, D], contiguous, on the CPU. Throws unless it has
// two dimensions.
at::Tensor plain_rows(const at::Tensor& embeddings);

// |row| of the rows named in `used` (of float32 rows [N, D] as plain_rows gives), in double; 0 for
// the others. Throws for a row that is not there, and for one that holds NaN or infinity or only
// zeros, by its number and names[row] where `names` is not empty. `numbers`: what to call the rows
// when they are some of a larger set; empty: 0, 1 ...
std::vector<double> norms_of(const at::Tensor& rows, std::span<const int64_t> used,
                             const std::vector<std::string>& names,
                             std::span<const int64_t> numbers = {});

// The same for all rows, when only the check is wanted.
void check_directions(const at::Tensor& rows, const std::vector<std::string>& names,
                      std::span<const int64_t> numbers = {});

}  // namespace facetrain
