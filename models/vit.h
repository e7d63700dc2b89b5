// Vision transformer (Dosovitskiy 2021, arXiv:2010.11929) under timm's and MAE's names, shapes and
// sizes; with `embedding: 0` exactly timm's tensors for num_classes=0, and its feature.
//
// Recipes use it in parts: embed() makes patch tokens with their positions, encode() puts the class
// token in front of those that are kept and runs the blocks.
#pragma once

#include <string>
#include <vector>

#include "core/freeze.h"
#include "models/backbone.h"
#include "models/embedding_head.h"
#include "models/position_table.h"
#include "models/translated_weights.h"
#include "models/vit_block.h"

namespace facetrain {

struct VitOptions : CommonModelOptions {
  VitOptions() {
    embedding = 0;
    own_feature = true;
  }
  int64_t dim = 768, own_size = 224;  // of the name: width of the tokens at model.width 1, pixels
  int64_t image_size = 0, patch = 16, depth = 12, heads = 12;
  bool any_size = false, qkv_bias = true, pre_norm = false, checkpoint_activations = false;
  double mlp_ratio = 4, drop_path = 0, layer_scale = 0, norm_eps = 1e-6;
  std::string pool = "token", position = "learned", activation = "gelu", init_scheme = "timm";
  void fields(auto& f) {
    CommonModelOptions::fields(f);
    f("image_size", image_size, range(0, 4096),
      "pixels of the square images it is built for; 0: data.size, or the name's own");
    f("any_size", any_size,
      "also take images of other sizes, whose positions are interpolated (multi-crop)");
    f("patch", patch, range(1, 64), "pixels of a patch's side");
    f("depth", depth, range(1, 200), "blocks");
    f("heads", heads, range(1, 128), "attention heads; no file holds their number");
    f("mlp_ratio", mlp_ratio, range(0.25, 16), "hidden width of a block's MLP over the tokens'");
    f("pool", pool, one_of("token", "mean", "both"),
      "the feature: class token, mean of the patches behind fc_norm (timm's avg), or both, [B, "
      "2D]");
    f("position", position, one_of("learned", "sincos"), "sincos: fixed, as MAE");
    f("drop_path", drop_path, range(0, 0.99),
      "probability of dropping the last block's branches for a sample; rises from 0 block by "
      "block");
    f("layer_scale", layer_scale, at_least(0), "start of the branches' scales; 0: none");
    f("qkv_bias", qkv_bias, "biases of query, key and value");
    f("pre_norm", pre_norm, "CLIP: a norm in front of the blocks, no bias in the patch projection");
    f("activation", activation, one_of("gelu", "quick_gelu"), "quick_gelu: OpenAI's CLIP");
    f("norm_eps", norm_eps, range(1e-12, 1), "of the layer norms");
    f("init_scheme", init_scheme, one_of("timm", "mae"),
      "timm: truncated normal 0.02; mae: Xavier, tokens N(0, 0.02)");
    f("checkpoint_activations", checkpoint_activations,
      "compute each block again in the backward: less memory, a third more time");
  }
};

class Vit : public Backbone, public FreezePolicy, public WeightFitter, public WeightTranslator {
 public:
  // Throws unless the patch divides the image and the heads the width.
  Vit(const VitOptions& options, const BackboneContext& context);

  // embedding [B, dim()], tokens [B, 1 + L, D] and taps of images [B, 3, S, S]; with any_size of
  // any sides that the patch divides.
  Features forward(const torch::Tensor& images) override;

  // Patch tokens with their positions, [B, L, D], of images [B, 3, H, W] whose sides the patch
  // divides; positions are interpolated (bicubic) to their grid. Where `masked` [B, L] (bool) is
  // given, `mask_token` (D numbers) stands for those patches, with their positions (iBOT).
  torch::Tensor embed(const torch::Tensor& images, const torch::Tensor& masked = {},
                      const torch::Tensor& mask_token = {});
  // The tokens after the final norm, [B, 1 + K, D], class token first, of images or of embed()'s
  // tokens [B, L, D]. `kept` [B, K] (int64): the patches that stay, in this order; the others are
  // removed before the class token is added and the blocks run (MAE, He 2022). With `pool: mean`
  // there is no final norm. Taps that were asked for go into `taps`.
  torch::Tensor encode(const torch::Tensor& input, const torch::Tensor& kept = {},
                       std::map<std::string, torch::Tensor>* taps = nullptr);
  // The feature [B, dim()] of encode()'s tokens: pooled, normalised, through the head.
  torch::Tensor pool(const torch::Tensor& tokens);

  int64_t image_size() const override { return image_size_; }
  int64_t dim() const override { return feature_->dim(); }
  int64_t width() const { return dim_; }  // D, of a token
  int64_t patch() const { return options_.patch; }
  int64_t heads() const { return options_.heads; }
  int64_t depth() const { return options_.depth; }
  Grid grid() const { return {image_size_ / patch(), image_size_ / patch()}; }
  const VitOptions& options() const { return options_; }

  // "blocks.N": output of block N, [B, 1 + K, D]; "attention.N": its attention's softmax, [B,
  // heads, 1 + K, 1 + K].
  std::vector<std::string> taps() const override { return blocks_->taps(); }
  // Class token, positions, patch embedding 0; blocks.k k + 1; the rest depth + 1.
  int64_t layer_of(const std::string& parameter) const override;
  int64_t layers() const override { return depth() + 2; }
  std::vector<std::string> frozen() const override;

  // CLIP's and DINOv2's own files (models/vit_weights.h).
  std::unique_ptr<WeightsFile> translated(std::unique_ptr<WeightsFile> file) const override;
  // A position table of another grid is interpolated, and that is printed; CLIP's tokens [D] and
  // tables [1 + L, D] get the axes they lack.
  bool fits(const std::string& name, torch::IntArrayRef stored) const override;
  torch::Tensor fit(const std::string& name, const torch::Tensor& stored) const override;

 private:
  Grid grid_of(const torch::Tensor& images) const;
  void initialise(uint64_t seed);

  VitOptions options_;
  int64_t image_size_, dim_;
  torch::Tensor cls_token_, pos_embed_;  // [1, 1, D], [1, 1 + L, D]
  Conv2d proj_{nullptr};
  VitBlocks blocks_{nullptr};
  LayerNorm norm_pre_{nullptr}, norm_{nullptr}, fc_norm_{nullptr};
  EmbeddingHead feature_{nullptr};
};

// The tokens [B, K, D] of tokens [B, L, D] at `indices` [B, K] (int64).
torch::Tensor take_tokens(const torch::Tensor& tokens, const torch::Tensor& indices);

// What the vision transformers of this folder share: pixels of the images, a name's prefix
// "blocks." and number, or -1.
int64_t chosen_image_size(int64_t option, int64_t data, int64_t own);
int64_t block_of(const std::string& parameter);

}  // namespace facetrain
