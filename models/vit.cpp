#include "models/vit.h"

#include "core/check.h"
#include "models/trunk.h"
#include "models/vit_weights.h"

namespace facetrain {
namespace {

using torch::Tensor;

constexpr int64_t kExtra = 1;  // rows of the position table that belong to no patch
constexpr double kDeviation = 0.02;

VitBlockShape block_shape(const VitOptions& o, int64_t dim) {
  return {.dim = dim,
          .heads = o.heads,
          .mlp_ratio = o.mlp_ratio,
          .layer_scale = o.layer_scale,
          .drop_path = o.drop_path,
          .norm_eps = o.norm_eps,
          .qkv_bias = o.qkv_bias,
          .activation = o.activation == "gelu" ? Activation::kGelu : Activation::kQuickGelu};
}

}  // namespace

Vit::Vit(const VitOptions& options, const BackboneContext& context)
    : Backbone(options),
      options_(options),
      image_size_(chosen_image_size(options.image_size, context.image_size, options.own_size)),
      dim_(options.scaled(options.dim)) {
  FT_CHECK(image_size_ % patch() == 0,
           "model.patch {} does not divide images of {} pixels: choose another model.patch, "
           "data.size or model.image_size",
           patch(), image_size_);
  cls_token_ = register_parameter("cls_token", torch::zeros({1, 1, dim_}));
  pos_embed_ = register_parameter("pos_embed", torch::zeros({1, kExtra + grid().cells(), dim_}));
  const auto patch_embed = register_module("patch_embed", std::make_shared<torch::nn::Module>());
  proj_ = patch_embed->register_module(
      "proj", Conv2d(ConvOptions{3, dim_, patch(), patch(), 0, 1, !options.pre_norm}));
  if (options.pre_norm) norm_pre_ = register_module("norm_pre", LayerNorm(dim_, options.norm_eps));
  blocks_ = register_module(
      "blocks", VitBlocks(block_shape(options, dim_), depth(), options.checkpoint_activations));
  const bool mean = options.pool == "mean";
  (mean ? fc_norm_ : norm_) =
      register_module(mean ? "fc_norm" : "norm", LayerNorm(dim_, options.norm_eps));
  const int64_t features = options.pool == "both" ? 2 * dim_ : dim_;
  feature_ =
      register_module("feature", EmbeddingHead(features, options.embedding, options.dropout));
  initialise(context.seed);
}

Features Vit::forward(const Tensor& images) {
  if (!options_.any_size) check_images(images);
  Features features;
  features.tokens = encode(images, {}, &features.taps);
  features.embedding = pool(features.tokens);
  return features;
}

Tensor Vit::embed(const Tensor& images, const Tensor& masked, const Tensor& mask_token) {
  const Grid found = grid_of(images);
  auto tokens = proj_(images).flatten(2).transpose(1, 2);
  if (masked.defined()) {
    FT_CHECK(masked.scalar_type() == torch::kBool && masked.dim() == 2 &&
                 masked.size(0) == images.size(0) && masked.size(1) == found.cells(),
             "wanted a mask of bool [{}, {}], found {} [{}]", images.size(0), found.cells(),
             c10::toString(masked.scalar_type()), fmt::join(masked.sizes(), ", "));
    tokens = at::where(masked.unsqueeze(2), mask_token.reshape({1, 1, dim_}), tokens);
  }
  return tokens + resize_positions(pos_embed_, kExtra, grid(), found).slice(1, kExtra);
}

Tensor Vit::encode(const Tensor& input, const Tensor& kept, std::map<std::string, Tensor>* taps) {
  auto x = input.dim() == 4 ? embed(input) : input;
  if (kept.defined()) x = take_tokens(x, kept);
  const auto first = cls_token_ + pos_embed_.slice(1, 0, kExtra);
  x = torch::cat({first.expand_as(x.slice(1, 0, 1)), x}, 1);  // knows no number of images
  if (norm_pre_) x = norm_pre_(x);
  x = blocks_(
      x, [this](const std::string& tap) { return asked_for(tap); }, taps);
  return norm_ ? norm_(x) : x;
}

Tensor Vit::pool(const Tensor& tokens) {
  const auto x = to_full_precision(tokens);
  if (options_.pool == "token") return feature_(x.select(1, 0));
  const auto mean = x.slice(1, kExtra).mean(1);
  if (options_.pool == "mean") return feature_(fc_norm_(mean));
  return feature_(torch::cat({x.select(1, 0), mean}, 1));
}

Grid Vit::grid_of(const Tensor& images) const {
  FT_CHECK(images.dim() == 4 && images.size(1) == 3 && images.size(2) >= patch() &&
               images.size(3) >= patch() && images.size(2) % patch() == 0 &&
               images.size(3) % patch() == 0,
           "this network takes images [B, 3, H, W] with sides that are multiples of its patch, {}, "
           "found [{}]",
           patch(), fmt::join(images.sizes(), ", "));
  return {images.size(2) / patch(), images.size(3) / patch()};
}

int64_t Vit::layer_of(const std::string& parameter) const {
  for (const char* first : {"cls_token", "pos_embed", "patch_embed.", "norm_pre."})
    if (parameter.starts_with(first)) return 0;
  const int64_t block = block_of(parameter);
  return block >= 0 ? block + 1 : depth() + 1;
}

std::vector<std::string> Vit::frozen() const {
  if (options_.position == "sincos") return {"pos_embed"};
  return {};
}

std::unique_ptr<WeightsFile> Vit::translated(std::unique_ptr<WeightsFile> file) const {
  return translate_vit(std::move(file));
}

bool Vit::fits(const std::string& name, torch::IntArrayRef stored) const {
  if (name == "cls_token") return stored == torch::IntArrayRef{dim_};
  if (name != "pos_embed" || stored.size() < 2) return false;
  const std::vector<int64_t> table{stored.size() == 2 ? 1 : stored[0], stored[stored.size() - 2],
                                   stored.back()};
  return stored.size() <= 3 && is_position_table(table, kExtra, dim_);
}

Tensor Vit::fit(const std::string& name, const Tensor& stored) const {
  if (name == "cls_token") return stored.view({1, 1, dim_});
  const auto table = stored.dim() == 2 ? stored.unsqueeze(0) : stored;
  return table.sizes() == pos_embed_.sizes() ? table : fit_positions(table, kExtra, grid());
}

// timm: Linear truncated normal, the patch convolution as PyTorch's, class token N(0, 1e-6). MAE:
// Linear and patch convolution Xavier, class token N(0, 0.02). Learned positions are truncated
// normal in both; norms 1 and 0, biases 0 by construction.
void Vit::initialise(uint64_t seed) {
  const bool mae = options_.init_scheme == "mae";
  init_as_pytorch(proj_->weight, proj_->bias, seed, "patch_embed.proj");
  if (mae) init_xavier_uniform(proj_->weight, seed, "patch_embed.proj.weight");
  for (const auto& item : named_parameters()) {
    if (item.value().dim() != 2) continue;
    if (mae)
      init_xavier_uniform(item.value(), seed, item.key());
    else
      init_trunc_normal(item.value(), seed, item.key(), kDeviation);
  }
  feature_->initialise(seed);
  init_normal(cls_token_, seed, "cls_token", 0, mae ? kDeviation : 1e-6);
  if (options_.position == "learned")
    return init_trunc_normal(pos_embed_, seed, "pos_embed", kDeviation);
  const torch::NoGradGuard no_grad;
  pos_embed_.slice(1, kExtra).copy_(sincos_positions(dim_, grid().height, grid().width));
  pos_embed_.set_requires_grad(false);
}

Tensor take_tokens(const Tensor& tokens, const Tensor& indices) {
  FT_CHECK(indices.scalar_type() == torch::kLong && indices.dim() == 2 &&
               indices.size(0) == tokens.size(0) && indices.size(1) >= 1,
           "wanted indices of kept tokens, int64 [{}, K >= 1], found {} [{}]", tokens.size(0),
           c10::toString(indices.scalar_type()), fmt::join(indices.sizes(), ", "));
  return tokens.gather(1, indices.unsqueeze(2).expand({-1, -1, tokens.size(2)}));
}

int64_t chosen_image_size(int64_t option, int64_t data, int64_t own) {
  FT_CHECK(option == 0 || data == 0 || option == data,
           "model.image_size is {}, data.size is {}: leave one of them out", option, data);
  const int64_t chosen = option > 0 ? option : data > 0 ? data : own;
  FT_CHECK(chosen >= 16, "this network wants images of 16 pixels or more, found data.size {}",
           chosen);
  return chosen;
}

int64_t block_of(const std::string& parameter) {
  constexpr std::string_view kBlocks = "blocks.";
  return parameter.starts_with(kBlocks) ? std::stoll(parameter.substr(kBlocks.size())) : -1;
}

}  // namespace facetrain
