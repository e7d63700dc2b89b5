// The face transformers of arcface_torch (and LVFace, PLSC's FaceViT), its names and shapes
// (reference/recognition.md 3.4): no class token, patches of 9 pixels of which the last rows and
// columns of a 112-px image are never seen, ReLU6, and a head over all tokens. In training a part
// of the tokens is left out of the blocks and stands as a learned `mask_token` behind them. Its
// code always masks 0.1 where it masks at all; here `mask` is the share.
#include "core/check.h"
#include "core/freeze.h"
#include "models/backbone.h"
#include "models/batch_norm.h"
#include "models/masking.h"
#include "models/trunk.h"
#include "models/vit.h"

namespace facetrain {
namespace {

using torch::Tensor;

constexpr double kLayerNormEps = 1e-5, kBatchNormEps = 2e-5, kDeviation = 0.02;

struct FaceVitOptions : CommonModelOptions {
  int64_t dim = 512;  // of the name
  int64_t image_size = 0, patch = 9, depth = 12, heads = 8;
  double mlp_ratio = 4, drop_path = 0.1, mask = 0.1;
  bool checkpoint_activations = false;
  void fields(auto& f) {
    CommonModelOptions::fields(f);
    f("image_size", image_size, range(0, 4096),
      "pixels of the square images it is built for; 0: data.size, or 112");
    f("patch", patch, range(1, 64), "pixels of a patch's side; what is left at the edge is unseen");
    f("depth", depth, range(1, 200), "blocks");
    f("heads", heads, range(1, 128), "attention heads; no file holds their number");
    f("mlp_ratio", mlp_ratio, range(0.25, 16), "hidden width of a block's MLP over the tokens'");
    f("drop_path", drop_path, range(0, 0.99),
      "probability of dropping the last block's branches for a sample; rises from 0 block by "
      "block");
    f("mask", mask, range(0, 0.95), "share of the tokens that training leaves out; 0: none");
    f("checkpoint_activations", checkpoint_activations,
      "compute each block again in the backward: less memory, a third more time");
  }
};

// Linear over all tokens, norm, dropout, Linear, norm: children 0, 1, 2, 3.
class FaceHead : public torch::nn::Module {
 public:
  FaceHead(int64_t in, int64_t dim, int64_t embedding, double dropout)
      : first_(register_module("0", Linear(in, dim, /*bias=*/false))),
        first_norm_(register_module("1", BatchNorm(dim, kBatchNormEps))),
        last_(register_module("2", Linear(dim, embedding, /*bias=*/false))),
        last_norm_(register_module("3", BatchNorm(embedding, kBatchNormEps))),
        dropout_(register_module("dropout", Dropout(dropout, "feature.dropout"))) {}
  Tensor forward(const Tensor& x) {
    const NoAutocast full_precision(c10::autocast_dispatch_keyset);
    return last_norm_(last_(dropout_(first_norm_(first_(to_full_precision(x))))));
  }

 private:
  Linear first_;
  BatchNorm first_norm_;
  Linear last_;
  BatchNorm last_norm_;
  Dropout dropout_;
};

class FaceVit : public Backbone, public FreezePolicy, public WeightFitter {
 public:
  FaceVit(const FaceVitOptions& options, const BackboneContext& context)
      : Backbone(options),
        options_(options),
        image_size_(chosen_image_size(options.image_size, context.image_size, 112)),
        dim_(options.scaled(options.dim)) {
    FT_CHECK(options.patch <= image_size_, "model.patch {} is larger than images of {} pixels",
             options.patch, image_size_);
    pos_embed_ = register_parameter("pos_embed", torch::zeros({1, grid().cells(), dim_}));
    mask_token_ = register_parameter("mask_token", torch::zeros({1, 1, dim_}));
    mask_token_.set_requires_grad(options.mask > 0);
    const auto patch_embed = register_module("patch_embed", std::make_shared<torch::nn::Module>());
    proj_ = patch_embed->register_module(
        "proj", Conv2d(ConvOptions{3, dim_, options.patch, options.patch, 0, 1, true}));
    blocks_ = register_module(
        "blocks", VitBlocks(block_shape(), options.depth, options.checkpoint_activations));
    norm_ = register_module("norm", LayerNorm(dim_, kLayerNormEps));
    feature_ =
        register_module("feature", std::make_shared<FaceHead>(grid().cells() * dim_, dim_,
                                                              options.embedding, options.dropout));
    initialise(context.seed);
  }

  Features forward(const Tensor& images) override {
    check_images(images);
    Features features;
    auto x = proj_(images).flatten(2).transpose(1, 2) + pos_embed_;
    PatchMask mask;
    if (is_training() && options_.mask > 0) {
      mask = random_mask(grid().cells(), options_.mask, "mask");
      x = take_tokens(x, mask.kept);
    }
    x = blocks_(
        x, [this](const std::string& tap) { return asked_for(tap); }, &features.taps);
    x = norm_(to_full_precision(x));
    if (mask.kept.defined()) x = put_back(x, mask);
    features.tokens = x;
    features.embedding = feature_->forward(x.flatten(1));
    return features;
  }

  int64_t image_size() const override { return image_size_; }

  std::vector<std::string> taps() const override { return blocks_->taps(); }
  int64_t layer_of(const std::string& parameter) const override {
    for (const char* first : {"pos_embed", "mask_token", "patch_embed."})
      if (parameter.starts_with(first)) return 0;
    const int64_t block = block_of(parameter);
    return block >= 0 ? block + 1 : options_.depth + 1;
  }
  int64_t layers() const override { return options_.depth + 2; }

  // The files always hold a mask token.
  std::vector<std::string> frozen() const override {
    if (options_.mask > 0) return {};
    return {"mask_token"};
  }

  bool fits(const std::string& name, torch::IntArrayRef stored) const override {
    return name == "pos_embed" && is_position_table(stored, 0, dim_);
  }
  Tensor fit(const std::string& /*name*/, const Tensor& stored) const override {
    return fit_positions(stored, 0, grid());
  }

 private:
  Grid grid() const { return {image_size_ / options_.patch, image_size_ / options_.patch}; }

  VitBlockShape block_shape() const {
    return {.dim = dim_,
            .heads = options_.heads,
            .mlp_ratio = options_.mlp_ratio,
            .drop_path = options_.drop_path,
            .norm_eps = kLayerNormEps,
            .qkv_bias = false,
            .activation = Activation::kRelu6};
  }

  // Kept tokens to their places, the mask token to the others.
  Tensor put_back(const Tensor& kept, const PatchMask& mask) {
    const int64_t removed = grid().cells() - kept.size(1);
    const auto all = torch::cat(
        {kept, mask_token_.to(kept.scalar_type()).expand({kept.size(0), removed, dim_})}, 1);
    return take_tokens(all, mask.restore);
  }

  // Linear layers, positions and the mask token N(0, 0.02), cut at ±2 but for the token; the patch
  // convolution as PyTorch's.
  void initialise(uint64_t seed) {
    for (const auto& item : named_parameters())
      if (item.value().dim() == 2) init_trunc_normal(item.value(), seed, item.key(), kDeviation);
    init_as_pytorch(proj_->weight, proj_->bias, seed, "patch_embed.proj");
    init_trunc_normal(pos_embed_, seed, "pos_embed", kDeviation);
    init_normal(mask_token_, seed, "mask_token", 0, kDeviation);
  }

  FaceVitOptions options_;
  int64_t image_size_, dim_;
  Tensor pos_embed_, mask_token_;
  Conv2d proj_{nullptr};
  VitBlocks blocks_{nullptr};
  LayerNorm norm_{nullptr};
  std::shared_ptr<FaceHead> feature_;
};

struct Shape {
  int64_t dim, depth;
  double drop_path, mask;
  bool checkpoint = false;
};

template <Shape kShape>
struct Options : FaceVitOptions {
  Options() {
    dim = kShape.dim;
    depth = kShape.depth;
    drop_path = kShape.drop_path;
    mask = kShape.mask;
    checkpoint_activations = kShape.checkpoint;
  }
};

template <Shape kShape>
bool add(const char* name, const char* meaning) {
  return Backbones::get().add<FaceVit, Options<kShape>>(name, meaning);
}

constexpr Shape kTiny{256, 12, 0.1, 0.1}, kSmall{512, 12, 0.1, 0.1}, kBase{512, 24, 0.1, 0.1, true},
    kLarge{768, 24, 0.05, 0.05, true};

[[maybe_unused]] const bool registered =
    add<kTiny>("vit_t", "face ViT-T/9 (arcface_torch), 19.1 M parameters") &&
    add<Shape{256, 12, 0.05, 0}>("vit_t_dp005_mask0", "vit_t, drop path 0.05, no masking") &&
    add<kSmall>("vit_s", "face ViT-S/9 (arcface_torch), 76.0 M parameters") &&
    add<Shape{512, 12, 0.05, 0}>("vit_s_dp005_mask_0", "vit_s, drop path 0.05, no masking") &&
    add<kBase>("vit_b", "face ViT-B/9 (arcface_torch), 113.8 M parameters") &&
    add<Shape{512, 24, 0.05, 0.05, true}>("vit_b_dp005_mask_005",
                                          "vit_b, drop path and masking 0.05") &&
    add<kLarge>("vit_l_dp005_mask_005", "face ViT-L/9 (arcface_torch), 255.7 M parameters") &&
    add<Shape{1024, 48, 0.1, 0, true}>("vit_h", "face ViT-H/9 (arcface_torch), 756.4 M parameters");

}  // namespace
}  // namespace facetrain
