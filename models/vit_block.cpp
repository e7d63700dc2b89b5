#include "models/vit_block.h"

#include <cmath>

#include "models/checkpointed.h"

namespace facetrain {
namespace {

std::string block_name(size_t k) { return fmt::format("blocks.{}", k); }
std::string attention_name(size_t k) { return fmt::format("attention.{}", k); }

}  // namespace

using torch::Tensor;

VitBlockImpl::VitBlockImpl(const VitBlockShape& s)
    : norm1_(register_module("norm1", LayerNorm(s.dim, s.norm_eps))),
      attn_(register_module("attn", Attention(s.dim, s.heads, s.qkv_bias))),
      norm2_(register_module("norm2", LayerNorm(s.dim, s.norm_eps))),
      mlp_(register_module(
          "mlp", Mlp(s.dim, std::llround(static_cast<double>(s.dim) * s.mlp_ratio), s.activation))),
      drop_path1_(register_module("drop_path1", DropPath(s.drop_path, s.name + ".drop_path1"))),
      drop_path2_(register_module("drop_path2", DropPath(s.drop_path, s.name + ".drop_path2"))) {
  if (s.layer_scale == 0) return;
  ls1_ = register_module("ls1", LayerScale(s.dim, s.layer_scale));
  ls2_ = register_module("ls2", LayerScale(s.dim, s.layer_scale));
}

Tensor VitBlockImpl::forward(const Tensor& x, Tensor* attention) {
  const auto scaled = [](LayerScale& scale, const Tensor& y) { return scale ? scale(y) : y; };
  const auto y = x + drop_path1_(scaled(ls1_, attn_(norm1_(x), attention)));
  return y + drop_path2_(scaled(ls2_, mlp_(norm2_(y))));
}

VitBlocksImpl::VitBlocksImpl(VitBlockShape shape, int64_t depth, bool checkpoint_activations)
    : checkpoint_(checkpoint_activations) {
  const double last = shape.drop_path;
  for (int64_t k = 0; k < depth; ++k) {
    shape.name = block_name(static_cast<size_t>(k));
    shape.drop_path = drop_path_at(last, k, depth);
    blocks_.push_back(register_module(std::to_string(k), VitBlock(shape)));
  }
}

Tensor VitBlocksImpl::forward(Tensor x, const std::function<bool(const std::string&)>& asked,
                              std::map<std::string, Tensor>* taps) {
  const auto wanted = [&](const std::string& name) { return taps && asked && asked(name); };
  for (size_t k = 0; k < blocks_.size(); ++k) {
    auto& block = blocks_[k];
    if (const auto name = attention_name(k); wanted(name))
      x = block(x, &(*taps)[name]);
    else if (checkpoint_ && is_training())
      x = checkpointed([block](const Tensor& y) mutable { return block(y); }, x);
    else
      x = block(x);
    if (const auto name = block_name(k); wanted(name)) (*taps)[name] = x;
  }
  return x;
}

std::vector<std::string> VitBlocksImpl::taps() const {
  std::vector<std::string> names;
  for (size_t k = 0; k < blocks_.size(); ++k) {
    names.push_back(block_name(k));
    names.push_back(attention_name(k));
  }
  return names;
}

}  // namespace facetrain
