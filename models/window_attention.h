// Attention inside windows of a map, with a learned bias for each relative position, and windows
// that are shifted by cyclic rolling (Liu 2021, arXiv:2103.14030, 3.2).
#pragma once

#include <map>
#include <tuple>

#include "core/torch.h"
#include "models/layers.h"

namespace facetrain {

// Which pixels see each other. A map whose sides are no multiples of the window is padded below and
// to the right with zeros that take part, as the public implementations have it.
struct WindowLayout {
  int64_t height, width, window, shift;  // of the map before padding
  // Row of the bias table for every pair (query, key) of a window's pixels, [window⁴] int64.
  torch::Tensor position_index() const;
  // 0 where query and key lay side by side before the roll, -100 where they did not:
  // [windows, 1, window², window²] fp32; undefined without a shift.
  torch::Tensor mask() const;
  int64_t rows() const { return (height + window - 1) / window; }    // of windows
  int64_t columns() const { return (width + window - 1) / window; }  // of windows
};

// Parameters `qkv`, `proj`, `relative_position_bias_table` [(2 window - 1)², heads].
class WindowAttentionImpl : public torch::nn::Module {
 public:
  WindowAttentionImpl(int64_t dim, int64_t heads, int64_t window, int64_t shift);
  torch::Tensor forward(const torch::Tensor& map);  // [B, H, W, C] -> [B, H, W, C]
  Linear qkv, proj;
  torch::Tensor relative_position_bias_table;

 private:
  struct Tables {
    torch::Tensor index, mask;
  };
  // [1, windows · heads, window², window²]: bias and mask.
  torch::Tensor bias(const WindowLayout& layout);
  const Tables& tables(const WindowLayout& layout);
  int64_t heads_, window_, shift_;
  // Derived, so neither parameters nor buffers: kept for the sizes that were met.
  std::map<std::tuple<int64_t, int64_t, c10::DeviceType, int64_t>, Tables> tables_;
};
TORCH_MODULE(WindowAttention);

}  // namespace facetrain
