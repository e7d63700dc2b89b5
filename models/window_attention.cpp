#include "models/window_attention.h"

#include <ATen/TracerMode.h>

#include "core/check.h"

namespace facetrain {
namespace {

using torch::Tensor;

constexpr float kApart = -100;  // what public weights were trained with; not -∞

// The rolled map's three bands along one side: those that stayed together, and the two parts of
// the last windows. [rows · window], padding included.
std::vector<int64_t> bands(int64_t windows, int64_t window, int64_t shift) {
  const int64_t length = windows * window;
  std::vector<int64_t> band(static_cast<size_t>(length));
  for (int64_t i = 0; i < length; ++i)
    band[static_cast<size_t>(i)] = i < length - window ? 0 : i < length - shift ? 1 : 2;
  return band;
}

// [B, rows · w, columns · w, C] -> [B, rows · columns, w², C]
Tensor to_windows(const Tensor& x, const WindowLayout& l) {
  const int64_t channels = x.size(3);
  return x.reshape({-1, l.rows(), l.window, l.columns(), l.window, channels})
      .permute({0, 1, 3, 2, 4, 5})
      .reshape({-1, l.rows() * l.columns(), l.window * l.window, channels});
}

Tensor from_windows(const Tensor& x, const WindowLayout& l) {
  const int64_t channels = x.size(3);
  return x.reshape({-1, l.rows(), l.columns(), l.window, l.window, channels})
      .permute({0, 1, 3, 2, 4, 5})
      .reshape({-1, l.rows() * l.window, l.columns() * l.window, channels});
}

}  // namespace

Tensor WindowLayout::position_index() const {
  const auto steps = torch::arange(window);
  const auto y = steps.repeat_interleave(window), x = steps.repeat({window});
  const auto apart = [&](const Tensor& at) {
    return at.unsqueeze(1) - at.unsqueeze(0) + window - 1;
  };
  return (apart(y) * (2 * window - 1) + apart(x)).flatten();
}

Tensor WindowLayout::mask() const {
  if (shift == 0) return {};
  const auto down = torch::tensor(bands(rows(), window, shift)).unsqueeze(1);
  const auto across = torch::tensor(bands(columns(), window, shift)).unsqueeze(0);
  const auto region = to_windows((3 * down + across).view({1, rows() * window, -1, 1}), *this)
                          .view({rows() * columns(), 1, window * window});
  return region.unsqueeze(3).ne(region.unsqueeze(2)).to(torch::kFloat) * kApart;
}

WindowAttentionImpl::WindowAttentionImpl(int64_t dim, int64_t heads, int64_t window, int64_t shift)
    : qkv(register_module("qkv", Linear(dim, 3 * dim))),
      proj(register_module("proj", Linear(dim, dim))),
      heads_(heads),
      window_(window),
      shift_(shift) {
  FT_CHECK(dim % heads == 0, "{} channels cannot be shared out to {} heads", dim, heads);
  const int64_t positions = (2 * window - 1) * (2 * window - 1);
  relative_position_bias_table =
      register_parameter("relative_position_bias_table", torch::zeros({positions, heads}));
}

const WindowAttentionImpl::Tables& WindowAttentionImpl::tables(const WindowLayout& layout) {
  const auto& learned = relative_position_bias_table;
  const auto device = learned.device();
  auto& found = tables_[{layout.height, layout.width, device.type(), device.index()}];
  const at::tracer::impl::NoTracerDispatchMode constants;  // of a graph that is being traced
  if (!found.index.defined()) found.index = layout.position_index().to(device);
  if (shift_ > 0 && (!found.mask.defined() || found.mask.dtype() != learned.dtype()))
    found.mask = layout.mask().to(learned.options().requires_grad(false));
  return found;
}

Tensor WindowAttentionImpl::bias(const WindowLayout& layout) {
  const auto& [index, mask] = tables(layout);
  const int64_t area = window_ * window_, windows = layout.rows() * layout.columns();
  const auto learned = at::embedding(relative_position_bias_table, index)
                           .view({area, area, heads_})
                           .permute({2, 0, 1})
                           .unsqueeze(0);
  const auto all = mask.defined() ? learned + mask : learned.expand({windows, heads_, area, area});
  return all.reshape({1, windows * heads_, area, area});
}

// The windows stand beside the heads, so that one bias serves all samples.
Tensor WindowAttentionImpl::forward(const Tensor& map) {
  const WindowLayout layout{map.size(1), map.size(2), window_, shift_};
  const int64_t windows = layout.rows() * layout.columns(), channels = map.size(3);
  const int64_t below = layout.rows() * window_ - layout.height;
  const int64_t right = layout.columns() * window_ - layout.width;
  auto x = shift_ > 0 ? at::roll(map, {-shift_, -shift_}, {1, 2}) : map;
  if (below > 0 || right > 0) x = at::constant_pad_nd(x, {0, 0, 0, right, 0, below}, 0);
  const int64_t area = window_ * window_;
  const auto parts = qkv(to_windows(x, layout))
                         .reshape({-1, windows, area, 3, heads_, channels / heads_})
                         .permute({3, 0, 1, 4, 2, 5})
                         .flatten(2, 3);  // [3, B, windows · heads, area, head]
  x = at::scaled_dot_product_attention(parts.select(0, 0), parts.select(0, 1), parts.select(0, 2),
                                       bias(layout));
  x = x.reshape({-1, windows, heads_, area, channels / heads_})
          .transpose(2, 3)
          .reshape({-1, windows, area, channels});
  x = from_windows(proj(x), layout);
  if (below > 0) x = x.slice(1, 0, layout.height);
  if (right > 0) x = x.slice(2, 0, layout.width);
  return shift_ > 0 ? at::roll(x, {shift_, shift_}, {1, 2}) : x;
}

}  // namespace facetrain
